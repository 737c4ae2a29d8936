"""The three ways to sample agree with each other and with torch."""

import pytest
import torch

from src.engine.sampling.kernels import NUM_CANDIDATES
from src.engine.sampling.stripes import NUM_STRIPES
from src.engine.sampling.top_k_top_p import (
    MAX_UNIFORM,
    NUM_UNIFORMS,
    sample_filtered,
    sample_unfiltered,
)
from tests.support.native import SAMPLING_KERNELS, each_sampling_kernels

STRIPED = 2 * NUM_STRIPES * NUM_CANDIDATES + 2000
"""A vocabulary large enough for stripes."""


def create_probs(num_rows: int, vocab_size: int, spread: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(vocab_size)
    return (torch.randn(num_rows, vocab_size, generator=generator) * spread).softmax(dim=-1)


def create_uniforms(num_rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.rand(num_rows, NUM_UNIFORMS, generator=generator, dtype=torch.double)


@pytest.mark.parametrize("vocab_size", [1, 5, NUM_STRIPES, 300, STRIPED + 7])
def test_unfiltered_sampling_is_an_inverse_transform(vocab_size):
    probs = create_probs(1, vocab_size).expand(1000, -1).contiguous()
    uniforms = torch.linspace(0, MAX_UNIFORM, 1000, dtype=torch.double)[:, None]
    token_ids = sample_unfiltered(probs, uniforms)
    cumulated = probs[0].double().cumsum(0)
    assert torch.all(token_ids.diff() >= 0)
    # Begin and end of each token in the distribution; the tolerance is for float32 sums.
    starts = torch.cat([cumulated.new_zeros(1), cumulated[:-1]])[token_ids]
    assert torch.all(starts <= uniforms[:, 0] + 1e-5)
    assert torch.all(uniforms[:, 0] <= cumulated[token_ids] + 1e-5)


@pytest.mark.parametrize("vocab_size", [5, 300, STRIPED + 7])
def test_never_selects_a_token_of_probability_zero(vocab_size):
    probs = torch.zeros(200, vocab_size)
    probs[:, 2] = probs[:, 4] = 0.5
    ends = torch.tensor([0.0, MAX_UNIFORM], dtype=torch.double).repeat(100)
    uniforms = torch.cat([ends[:, None], create_uniforms(200)[:, 1:]], dim=1)
    assert set(sample_unfiltered(probs, uniforms[:, :1]).tolist()) == {2, 4}
    no_filters = torch.tensor([[vocab_size, 1.0, 0.0]], dtype=torch.double).expand(200, -1)
    for kernels in SAMPLING_KERNELS.values():
        token_ids = sample_filtered(probs.log(), torch.ones(200), no_filters, uniforms, kernels)
        assert set(token_ids.tolist()) == {2, 4}


@pytest.mark.parametrize(
    "filters",
    [
        (STRIPED, 0.9, 0.0),  # a large nucleus: rejection sampling
        (STRIPED, 0.05, 0.0),  # a small share of a flat distribution: a sort
        (STRIPED, 1.0, 0.02),
        (STRIPED, 0.5, 0.02),
        (1000, 0.9, 0.0),
        (1000, 1.0, 0.0),
        (1000, 0.9, 0.5),
        (20, 0.9, 0.01),
    ],
)
@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
@each_sampling_kernels
def test_samples_all_that_the_filters_keep_and_nothing_else(filters, spread, kernels):
    top_k, top_p, min_p = filters
    probs = create_probs(1, STRIPED, spread)
    sorted_probs, sorted_ids = probs[0].double().sort(descending=True, stable=True)
    sorted_probs[top_k:] = 0
    is_kept = sorted_probs.cumsum(0) - sorted_probs < top_p * sorted_probs.sum() + 1e-6
    is_kept &= (sorted_probs >= min_p * sorted_probs[0] * (1 - 1e-6)) & (sorted_probs > 0)
    kept = sorted_ids[is_kept].tolist()
    num_rows = 300
    token_ids = sample_filtered(
        2 * probs.log().expand(num_rows, -1),
        torch.full((num_rows,), 2.0),
        torch.tensor([filters], dtype=torch.double).expand(num_rows, -1),
        create_uniforms(num_rows),
        kernels,
    ).tolist()
    assert set(token_ids) <= set(kept)
    # The less likely half has its share of the samples.
    less_likely = set(kept[len(kept) // 2 :])
    mass = sorted_probs[is_kept][len(kept) // 2 :].sum() / sorted_probs[is_kept].sum()
    share = sum(token_id in less_likely for token_id in token_ids) / num_rows
    assert share == pytest.approx(mass.item(), abs=4 * (0.25 / num_rows) ** 0.5)


@each_sampling_kernels
def test_of_equally_likely_tokens_the_first_are_the_nucleus(kernels):
    vocab_size = 4 * NUM_CANDIDATES
    probs = torch.full((2000, vocab_size), 1 / vocab_size)
    filters = torch.tensor([[vocab_size, 0.5, 0.0]], dtype=torch.double).expand(2000, -1)
    token_ids = sample_filtered(
        probs.log(), torch.ones(2000), filters, create_uniforms(2000), kernels
    )
    assert token_ids.max() < vocab_size // 2
    assert len(token_ids.unique()) > vocab_size // 2 - 50
