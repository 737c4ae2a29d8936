"""Markdown tables of the measurements and of the goals."""

import statistics
from collections import Counter

from benchmarks.peers.records import Data
from benchmarks.peers.summary import (
    GOALS,
    HTTP_SYSTEMS,
    NEW,
    OFFLINE_PEERS,
    OURS,
    PROMPT,
    Summary,
)
from benchmarks.report import table


def format_report(data: Data) -> str:
    """Creates all tables, grouped by model."""
    parts = [format_introduction(data)]
    for model in data.weights:
        summary = Summary(data, model)
        for precision in ("float32", "8-bit"):
            parts += [f"### {model}, {precision}", format_offline(summary, precision)]
        if summary.batches(HTTP_SYSTEMS):
            parts += [f"### {model}, over HTTP, greedy", format_http(summary)]
        parts += [f"### {model}, goals", format_goals(summary)]
    parts += ["### The same model?", format_agreements(data)]
    if data.failures:
        rows = [[f.model, f.precision, f.system, f.reason] for f in data.failures]
        parts += ["### Failed", table(["model", "precision", "system", "reason"], rows)]
    return "\n\n".join(parts)


def format_introduction(data: Data) -> str:
    """Describes machine, prompts and rounds of the tables."""
    machine = data.machine
    jobs = [(s.model, s.precision, s.system, s.sampling, s.batch) for s in data.speeds]
    rounds = max(Counter(jobs).values(), default=0)
    return (
        f"{machine.processor}, {machine.num_cores} cores; memory {machine.gb_per_second:.1f} GB/s,"
        f" products {machine.gflop_per_second:.0f} GFLOP/s in float32 and"
        f" {machine.int8_gop_per_second:.0f} Gop/s in 8 bits (medians of"
        f" {len(data.machines)}). Prompts of {PROMPT} tokens, {NEW} new ones, tokens per second end"
        f" to end: medians of up to {rounds} rounds, in brackets the least and the most, then the"
        " share of the bound that `benchmarks/peers/roofline.py` draws."
    )


def format_offline(summary: Summary, precision: str) -> str:
    """Creates a row for each system without HTTP."""
    systems = (OURS, *OFFLINE_PEERS)
    batches = summary.batches(systems)
    columns = [(sampling, batch) for sampling in ("greedy", "top-p") for batch in batches]
    rows = [
        [system, *(format_cell(summary, precision, system, *column) for column in columns)]
        for system in systems
    ]
    rows.append(["bound", *(f"{summary.bound(precision, batch):.0f}" for _, batch in columns)])
    return table(["system", *(f"{sampling} {batch}" for sampling, batch in columns)], rows)


def format_http(summary: Summary) -> str:
    """Creates a row for each server and precision."""
    batches = summary.batches(HTTP_SYSTEMS)
    rows = [
        [
            system,
            precision,
            *(format_cell(summary, precision, system, "greedy", batch) for batch in batches),
        ]
        for system in HTTP_SYSTEMS
        for precision in ("float32", "8-bit")
        if not (system == "transformers-serve" and precision == "8-bit")
    ]
    return table(["server", "precision", *(f"{batch} at once" for batch in batches)], rows)


def format_cell(summary: Summary, precision: str, system: str, sampling: str, batch: int) -> str:
    """Formats a speed with its spread and its share of the bound, or the reason of its absence."""
    speed = summary.speed(precision, system, sampling, batch)
    if speed is None:
        return "failed" if summary.failed(precision, system) else "not measured"
    share = speed.median / summary.bound(precision, batch)
    return f"{speed.median:.0f} ({speed.minimum:.0f} to {speed.maximum:.0f}) {share:.0%}"


def format_goals(summary: Summary) -> str:
    """Creates a row for each goal; the ratio is the median over the rounds."""
    rows = []
    for goal in GOALS:
        judged = summary.judge(goal)
        if judged is None:
            rows.append([goal, goal.against, f"{goal.needed:.1f}", "not measured", ""])
        else:
            name, ratio = judged
            verdict = "met" if ratio.median >= goal.needed else "**missed**"
            rows.append([goal, name, f"{goal.needed:.1f}", ratio, verdict])
    return table(["goal", "against", "at least", "ratio", ""], rows)


def format_agreements(data: Data) -> str:
    """Creates a row for each peer: greedy tokens before the first difference from HuggingFace's."""
    rows = []
    for agreement in data.agreements:
        counts = agreement.agreed
        num_equal = counts.count(agreement.length)
        names = [agreement.model, agreement.precision, agreement.system]
        texts = f"{num_equal} of {len(counts)}"
        rows.append([*names, texts, f"{statistics.median(counts):.0f}", min(counts)])
    length = data.agreements[0].length if data.agreements else 0
    header = [
        "model",
        "precision",
        "system",
        f"texts the same for {length} tokens",
        "median",
        "least",
    ]
    return table(header, rows)
