"""The page's probabilities after filters are those of HuggingFace's processors, as the engine's."""

import json
import os
import shutil
import subprocess

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from src.playground.files import FOLDER

NUM_TOKENS = 20
"""Alternatives that the page asks for; a vocabulary of so many tokens has no others."""

SCRIPT = """
import { readFileSync } from "node:fs";
// By its content, as node takes a file of this suffix for CommonJS.
const code = readFileSync(process.argv[1]).toString("base64");
const { filtered } = await import(`data:text/javascript;base64,${code}`);
const cases = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(cases.map(([logprobs, filters]) => filtered(logprobs, filters))));
"""
FILTERS = [
    {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    for temperature in (0.3, 1, 2)
    for top_k in (0, 1, 5)
    for top_p in (0.3, 0.9, 1)
    for min_p in (0, 0.2)
]


def filter_in_javascript(cases: list[tuple[list[float], dict[str, float]]]) -> list[list[float]]:
    """Returns what the page shows for each case."""
    if shutil.which("node") is None:
        assert "CI" not in os.environ, "needs node"
        pytest.skip("needs node")
    done = subprocess.run(
        ["node", "--input-type=module", "-e", SCRIPT, str(FOLDER / "sampling.js")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def by_huggingface(logprobs: torch.Tensor, filters: dict[str, float]) -> torch.Tensor:
    processors = LogitsProcessorList([TemperatureLogitsWarper(float(filters["temperature"]))])
    if filters["top_k"]:
        processors.append(TopKLogitsWarper(int(filters["top_k"])))
    if filters["top_p"] < 1:
        processors.append(TopPLogitsWarper(float(filters["top_p"])))
    if filters["min_p"]:
        processors.append(MinPLogitsWarper(float(filters["min_p"])))
    return processors(torch.zeros(1, 1, dtype=torch.long), logprobs[None].clone()).softmax(-1)[0]


def sorted_logprobs(vocab_size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(vocab_size, dtype=torch.double, generator=generator)
    return logits.log_softmax(-1).sort(descending=True).values


def test_all_filters_are_exact_if_all_tokens_are_known():
    logprobs = [sorted_logprobs(NUM_TOKENS, seed) for seed in range(len(FILTERS))]
    cases = [(row.tolist(), filters) for row, filters in zip(logprobs, FILTERS, strict=True)]
    for row, filters, shown in zip(logprobs, FILTERS, filter_in_javascript(cases), strict=True):
        expected = by_huggingface(row, filters)
        torch.testing.assert_close(torch.tensor(shown, dtype=torch.double), expected)


def test_a_top_k_is_exact_though_other_tokens_are_unknown():
    chosen = [filters for filters in FILTERS if filters["top_k"]]
    logprobs = sorted_logprobs(5000, seed=0)
    shown = filter_in_javascript([(logprobs[:NUM_TOKENS].tolist(), filters) for filters in chosen])
    for filters, values in zip(chosen, shown, strict=True):
        expected = by_huggingface(logprobs, filters)[:NUM_TOKENS]
        torch.testing.assert_close(torch.tensor(values, dtype=torch.double), expected)


def test_without_filters_at_temperature_1_the_probabilities_are_the_models():
    logprobs = sorted_logprobs(5000, seed=1)[:NUM_TOKENS]
    plain = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}
    (shown,) = filter_in_javascript([(logprobs.tolist(), plain)])
    torch.testing.assert_close(torch.tensor(shown, dtype=torch.double), logprobs.exp())


def test_greedy_decoding_keeps_the_most_likely_token():
    greedy = {"temperature": 0, "top_k": 0, "top_p": 1, "min_p": 0}
    assert filter_in_javascript([([-0.5, -1.5], greedy)]) == [[1, 0]]
