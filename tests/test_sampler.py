"""Sampling follows the exact distribution of each filter and of their combination."""

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from src.engine.sampler import NUM_CANDIDATES, SamplingRow, sample
from src.engine.sampling_params import SamplingParams

NUM_DRAWS = 20_000
SMALL, LARGE = 12, 4 * NUM_CANDIDATES


def create_logits(vocab_size: int, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(vocab_size, generator=torch.Generator().manual_seed(3)) * spread


def draw(logits: torch.Tensor, params: SamplingParams, seed: int = 1) -> list[int]:
    """Draws many tokens from one distribution, as a sequence's positions do."""
    rows = [SamplingRow(params, seed, position) for position in range(NUM_DRAWS)]
    return sample(logits.expand(NUM_DRAWS, -1), rows)


def exact_probs(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """The distribution that HuggingFace's processors give."""
    processors = LogitsProcessorList([TemperatureLogitsWarper(float(params.temperature))])
    if params.top_k:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(TopPLogitsWarper(params.top_p))
    return processors(None, logits[None].clone())[0].double().softmax(dim=-1)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0.5, "top_p": 1.0},
        {"temperature": 1.8, "top_p": 1.0},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 1.0, "top_p": 0.3},
        {"temperature": 1.0, "top_p": 1.0, "top_k": 4},
        {"temperature": 1.3, "top_p": 0.8, "top_k": 6},
    ],
)
@pytest.mark.parametrize("vocab_size", [SMALL, LARGE])
def test_draws_follow_the_exact_distribution(vocab_size, params):
    params = SamplingParams(**params)
    logits = create_logits(vocab_size)
    probs = exact_probs(logits, params)
    counts = Counter(draw(logits, params))
    assert all(probs[token_id] > 0 for token_id in counts)
    # Tokens too rare for the test's approximation are counted together.
    frequent = [i for i in range(vocab_size) if probs[i] * NUM_DRAWS >= 10]
    expected = [probs[i].item() * NUM_DRAWS for i in frequent]
    observed = [counts[i] for i in frequent]
    if NUM_DRAWS - sum(expected) >= 10:
        expected.append(NUM_DRAWS - sum(expected))
        observed.append(NUM_DRAWS - sum(observed))
    scale = sum(observed) / sum(expected)
    if len(expected) > 1:
        result = chisquare(observed, [value * scale for value in expected])
        assert result.pvalue > 1e-4


def test_a_flat_distribution_falls_back_to_the_exact_sort():
    logits = torch.zeros(LARGE)
    drawn = draw(logits, SamplingParams(temperature=1.0, top_p=0.9))
    assert len(set(drawn)) > NUM_CANDIDATES


def test_greedy_rows_take_the_most_likely_token():
    logits = create_logits(LARGE).expand(3, -1)
    greedy = SamplingRow(SamplingParams(temperature=0), 1, 0)
    wild = SamplingRow(SamplingParams(temperature=2.0, top_p=1.0), 1, 0)
    best = logits[0].argmax().item()
    assert sample(logits, [greedy] * 3) == [best] * 3
    mixed = sample(logits, [greedy, wild, greedy])
    assert (mixed[0], mixed[2]) == (best, best)


def test_a_token_depends_on_its_own_row_alone():
    logits = torch.stack([create_logits(LARGE) * scale for scale in (0.5, 1.0, 1.5)])
    all_params = [
        SamplingParams(temperature=0.9, top_p=0.8),
        SamplingParams(temperature=1.5, top_p=1.0, top_k=50),
        SamplingParams(temperature=2.0, top_p=1.0),
    ]
    rows = [SamplingRow(params, seed=5, position=9) for params in all_params]
    together = sample(logits, rows)
    alone = [sample(logits[i : i + 1], rows[i : i + 1])[0] for i in range(3)]
    assert together == alone


def test_seeds_and_positions_make_the_draws():
    logits = create_logits(LARGE)
    params = SamplingParams(temperature=1.5, top_p=1.0)
    first = draw(logits, params, seed=1)
    assert first == draw(logits, params, seed=1)
    assert first != draw(logits, params, seed=2)
    assert len(set(first)) > 10
