"""Reductions in stripes give the same as torch's."""

import pytest
import torch

from src.engine.sampling.kernels import NUM_CANDIDATES
from src.engine.sampling.stripes import NUM_STRIPES, striped_top_k, sum_stripes

STRIPED = 2 * NUM_STRIPES * NUM_CANDIDATES + 2000
"""A vocabulary large enough for stripes."""


def create_probs(num_rows: int, vocab_size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(vocab_size)
    return (torch.randn(num_rows, vocab_size, generator=generator) * 2).softmax(dim=-1)


@pytest.mark.parametrize("vocab_size", [300, STRIPED, STRIPED + 7])
@pytest.mark.parametrize("count", [1, 20, NUM_CANDIDATES])
def test_striped_top_k_is_torchs_topk(vocab_size, count):
    probs = create_probs(4, vocab_size)
    expected = probs.topk(count, dim=-1)
    top, token_ids = striped_top_k(probs, count)
    assert torch.equal(top, expected.values)
    assert torch.equal(token_ids, expected.indices)


def test_striped_top_k_finds_adjacent_last_and_stacked_tokens():
    probs = torch.zeros(3, STRIPED + 7)
    probs[0, :NUM_CANDIDATES] = 1
    probs[1, -NUM_CANDIDATES:] = 1
    width = (STRIPED + 7) // NUM_STRIPES
    probs[2, 5 : 5 + NUM_STRIPES * width : width] = 1  # all in one column
    top, token_ids = striped_top_k(probs, NUM_CANDIDATES)
    assert top.sum(dim=-1).tolist() == [NUM_CANDIDATES, NUM_CANDIDATES, NUM_STRIPES]
    assert torch.equal(probs.gather(1, token_ids), top)
    assert all(len(set(row)) == NUM_CANDIDATES for row in token_ids.tolist())


@pytest.mark.parametrize("vocab_size", [1, NUM_STRIPES, STRIPED + 7])
def test_sums_of_stripes_do_not_depend_on_the_batch(vocab_size):
    probs = create_probs(5, vocab_size)
    sums = sum_stripes(probs)
    torch.testing.assert_close(sums.sum(dim=-1), torch.ones(5, dtype=torch.double))
    assert torch.equal(sum_stripes(probs[2:3]), sums[2:3])
