"""The ways to draw agree with each other and with torch."""

import pytest
import torch

from src.engine.sampling.top_k_top_p import (
    LARGEST_UNIFORM,
    NUM_CANDIDATES,
    NUM_STRIPES,
    NUM_UNIFORMS,
    draw_from_all,
    find_best,
    find_largest,
    find_most_likely,
    find_probs,
    sample_filtered,
)
from tests.support.native import LIBRARIES

VARIANTS = [None, *LIBRARIES]
"""Who finds the most likely tokens: torch, or each variant of our own kernels."""

STRIPED = 2 * NUM_STRIPES * NUM_CANDIDATES + 2000


def create_probs(num_rows: int, vocab_size: int, spread: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(vocab_size)
    return (torch.randn(num_rows, vocab_size, generator=generator) * spread).softmax(dim=-1)


def create_uniforms(num_rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.rand(num_rows, NUM_UNIFORMS, generator=generator, dtype=torch.double)


@pytest.mark.parametrize("vocab_size", [300, STRIPED, STRIPED + 7])
@pytest.mark.parametrize("count", [1, 20, NUM_CANDIDATES])
def test_finds_the_most_likely_as_topk_does(vocab_size, count):
    probs = create_probs(4, vocab_size)
    expected = probs.topk(count, dim=-1)
    top, token_ids = find_most_likely(probs, count)
    assert torch.equal(top, expected.values)
    assert torch.equal(token_ids, expected.indices)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.variant)
@pytest.mark.parametrize("vocab_size", [1, 17, 300, STRIPED + 7])
def test_our_own_kernels_find_what_torch_does(library, vocab_size):
    logits = create_probs(5, vocab_size).log()
    logits[3, vocab_size // 2 :] = -torch.inf  # as bans and grammars leave it
    logits[3, 0] = 1.0
    logits[4] = logits[4].sort().values  # each is larger than those before
    assert torch.equal(find_largest(logits, library), find_largest(logits))
    assert torch.equal(find_best(logits, library), find_best(logits))
    temperatures, count = torch.tensor([0.1, 1.0, 2.0, 0.5, 1.0]), min(vocab_size, 256)
    expected = find_probs(logits, temperatures).topk(count, dim=-1)
    probs, token_ids = library.most_likely(logits, temperatures, count)
    torch.testing.assert_close(probs, expected.values, rtol=1e-5, atol=1e-7)
    is_likely = (expected.values > 1e-6) & (expected.values.diff(append=torch.zeros(5, 1)) < 0)
    assert torch.equal(token_ids[is_likely], expected.indices[is_likely])


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.variant)
@pytest.mark.parametrize("place", [0, 15, 49, 50])
def test_our_own_kernels_notice_what_is_no_number(library, place):
    logits = create_probs(3, 51).log()
    logits[1, place] = torch.nan
    assert find_largest(logits, library).isnan().tolist() == [False, True, False]


def test_finds_the_most_likely_wherever_they_are():
    probs = torch.zeros(3, STRIPED + 7)
    probs[0, :NUM_CANDIDATES] = 1
    probs[1, -NUM_CANDIDATES:] = 1
    width = (STRIPED + 7) // NUM_STRIPES
    probs[2, 5 : 5 + NUM_STRIPES * width : width] = 1  # all in one column
    top, token_ids = find_most_likely(probs, NUM_CANDIDATES)
    assert top.sum(dim=-1).tolist() == [NUM_CANDIDATES, NUM_CANDIDATES, NUM_STRIPES]
    assert torch.equal(probs.gather(1, token_ids), top)
    assert all(len(set(row)) == NUM_CANDIDATES for row in token_ids.tolist())


@pytest.mark.parametrize("vocab_size", [1, 5, NUM_STRIPES, 300, STRIPED + 7])
def test_draws_from_all_by_inverse_transform(vocab_size):
    probs = create_probs(1, vocab_size).expand(1000, -1).contiguous()
    uniform = torch.linspace(0, LARGEST_UNIFORM, 1000, dtype=torch.double)[:, None]
    drawn = draw_from_all(probs, uniform)
    cumulated = probs[0].double().cumsum(0)
    assert torch.all(drawn.diff() >= 0)
    # Where in the distribution each token begins and ends; float32 sums are a little off.
    starts = torch.cat([cumulated.new_zeros(1), cumulated[:-1]])[drawn]
    assert torch.all(starts <= uniform[:, 0] + 1e-5)
    assert torch.all(uniform[:, 0] <= cumulated[drawn] + 1e-5)


@pytest.mark.parametrize("vocab_size", [5, 300, STRIPED + 7])
def test_never_draws_what_has_no_probability(vocab_size):
    probs = torch.zeros(200, vocab_size)
    probs[:, 2] = probs[:, 4] = 0.5
    ends = torch.tensor([0.0, LARGEST_UNIFORM], dtype=torch.double).repeat(100)
    uniforms = torch.cat([ends[:, None], create_uniforms(200)[:, 1:]], dim=1)
    assert set(draw_from_all(probs, uniforms[:, :1]).tolist()) == {2, 4}
    all_kept = torch.tensor([[vocab_size, 1.0, 0.0]], dtype=torch.double).expand(200, -1)
    for library in VARIANTS:
        drawn = sample_filtered(probs.log(), torch.ones(200), all_kept, uniforms, library)
        assert set(drawn.tolist()) == {2, 4}


@pytest.mark.parametrize(
    "filters",
    [
        (STRIPED, 0.9, 0.0),  # a wide nucleus: rejection
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
@pytest.mark.parametrize("library", VARIANTS)
def test_what_is_drawn_is_what_the_filters_keep(filters, spread, library):
    top_k, top_p, min_p = filters
    probs = create_probs(1, STRIPED, spread)
    ordered, token_ids = probs[0].double().sort(descending=True, stable=True)
    ordered[top_k:] = 0
    is_kept = ordered.cumsum(0) - ordered < top_p * ordered.sum() + 1e-6
    is_kept &= (ordered >= min_p * ordered[0] * (1 - 1e-6)) & (ordered > 0)
    kept = set(token_ids[is_kept].tolist())
    num_rows = 300
    drawn = sample_filtered(
        2 * probs.log().expand(num_rows, -1),
        torch.full((num_rows,), 2.0),
        torch.tensor([filters], dtype=torch.double).expand(num_rows, -1),
        create_uniforms(num_rows),
        library,
    )
    assert set(drawn.tolist()) <= kept
    # Not only the beginning of it: the least likely half is drawn as often as it should be.
    half = set(token_ids[is_kept][len(kept) // 2 :].tolist())
    mass = ordered[is_kept][len(kept) // 2 :].sum() / ordered[is_kept].sum()
    share = sum(token_id in half for token_id in drawn.tolist()) / num_rows
    assert share == pytest.approx(mass.item(), abs=4 * (0.25 / num_rows) ** 0.5)


@pytest.mark.parametrize("library", VARIANTS)
def test_of_equally_likely_tokens_the_first_are_the_nucleus(library):
    vocab_size = 4 * NUM_CANDIDATES
    probs = torch.full((2000, vocab_size), 1 / vocab_size)
    filters = torch.tensor([[vocab_size, 0.5, 0.0]], dtype=torch.double).expand(2000, -1)
    drawn = sample_filtered(probs.log(), torch.ones(2000), filters, create_uniforms(2000), library)
    assert drawn.max() < vocab_size // 2
    assert len(drawn.unique()) > vocab_size // 2 - 50
