"""`bench`: speed of one OpenAI-compatible server, or of two side by side."""

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from src.cli.client import Sampling, base_url, first_model, open_client
from src.cli.load import Figures, Load, create_prompts, path_of, run_load, summarize
from src.cli.options import (
    DEFAULT_URL,
    SERVER,
    URL_VARIABLE,
    ApiKey,
    AsJson,
    MaxTokens,
    Model,
    Temperature,
    TopP,
)
from src.cli.terminal import complain, notes, output

LOAD = "Load"

Urls = Annotated[
    list[str],
    typer.Option(
        "--url",
        metavar="URL",
        envvar=URL_VARIABLE,
        help="URL of a server, with or without /v1. Given again: a server to compare with.",
        rich_help_panel=SERVER,
    ),
]
Concurrency = Annotated[
    int, typer.Option(min=1, metavar="N", help="Requests at the same time.", rich_help_panel=LOAD)
]
Requests = Annotated[
    int, typer.Option(min=1, metavar="N", help="Number of requests.", rich_help_panel=LOAD)
]
PromptLength = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Words of each prompt, all different.", rich_help_panel=LOAD
    ),
]
SamePrompt = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="The same text for all, instead: a server may cache it.",
        rich_help_panel=LOAD,
    ),
]
Endpoint = Annotated[
    Literal["chat", "completions"],
    typer.Option(help="Route to measure.", rich_help_panel=LOAD),
]
IgnoreEos = Annotated[
    bool,
    typer.Option(
        "--ignore-eos",
        help="Ask for all of --max-tokens, where the server has that extension.",
        rich_help_panel=LOAD,
    ),
]
LoadSeed = Annotated[
    int,
    typer.Option("--seed", metavar="N", help="Seed of prompts and sampling.", rich_help_panel=LOAD),
]


def bench(
    urls: Urls = [DEFAULT_URL],  # noqa: B006 - typer copies it
    model: Model = None,
    api_key: ApiKey = None,
    concurrency: Concurrency = 4,
    requests: Requests = 32,
    prompt_length: PromptLength = 64,
    prompt: SamePrompt = None,
    endpoint: Endpoint = "chat",
    ignore_eos: IgnoreEos = False,
    max_tokens: MaxTokens = 64,
    temperature: Temperature = 0,
    top_p: TopP = None,
    seed: LoadSeed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure servers: time to first token, time between tokens, tokens per second.

    One request warms each server up. Of two servers, the last column is the second's figure as a
    multiple of the first's.
    """
    fields = Sampling(max_tokens, temperature, top_p, seed).fields()
    if ignore_eos:
        fields["ignore_eos"] = True
    prompts = create_prompts(requests, prompt_length, seed) if prompt is None else []
    load = Load(path_of(endpoint), prompts or [prompt or ""] * requests, concurrency, fields)
    results = [_measure(load, url, api_key, model) for url in urls]
    if as_json:
        output().print_json(data=[asdict(figures) for figures in results], ensure_ascii=False)
    else:
        output().print(_table(results))
    if any(figures.failed for figures in results):
        raise typer.Exit(1)


def _measure(load: Load, url: str, api_key: str | None, model: str | None) -> Figures:
    """Warms a server up and measures it, with a progress bar on standard error."""
    url = base_url(url)
    if model is None:
        with open_client(url, api_key) as client:
            model = first_model(client)
    warm_up = Load(load.path, [" ".join(reversed(load.prompts[0].split()))], 1, load.fields)
    failure = asyncio.run(run_load(warm_up, url, api_key, model, lambda: None))[0].error
    if failure is not None:
        complain(failure)
        raise typer.Exit(1)
    console = notes()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(url, total=len(load.prompts))
        traces = asyncio.run(run_load(load, url, api_key, model, lambda: progress.advance(task)))
    figures = summarize(load, url, model, traces)
    if figures.failed:
        first = next(trace.error for trace in traces if trace.error is not None)
        complain(f"{figures.failed} requests to {url} failed. The first: {first}")
    return figures


def _table(results: list[Figures]) -> Table:
    """Creates a table with a column for each server, and one that compares two."""
    table = Table("", *(figures.url for figures in results))
    for column in table.columns[1:]:
        column.justify = "right"
    if len(results) == 2:
        table.add_column("second / first", justify="right")
    table.add_row("model", *(figures.model for figures in results))
    for rows in zip(*map(_rows, results), strict=True):
        values = [value for _, value in rows]
        cells = ["" if value is None else f"{value:,.6g}" for value in values]
        if len(values) == 2:
            cells.append(f"{values[1] / values[0]:.2f}" if values[0] and values[1] else "")
        table.add_row(rows[0][0], *cells)
    return table


def _rows(figures: Figures) -> Iterator[tuple[str, float | None]]:
    """Yields names and values of the table's rows."""
    yield "requests", figures.requests
    yield "failed", figures.failed
    yield "at the same time", figures.concurrency
    yield "prompt tokens, mean", figures.prompt_tokens
    yield "new tokens, mean", figures.completion_tokens
    yield "seconds", figures.seconds
    yield "requests/s", figures.requests_per_second
    yield "tokens/s", figures.tokens_per_second
    for name, times in (
        ("time to first token", figures.ttft),
        ("between tokens", figures.itl),
        ("whole answer", figures.latency),
    ):
        for quantile, value in asdict(times).items():
            yield f"{name}, {quantile} (ms)", value
