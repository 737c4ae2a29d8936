"""Our own kernels for sampling give the same as torch."""

import pytest
import torch

from src.engine.sampling.kernels import NUM_NATIVE_CANDIDATES, TorchSampling, softmax
from tests.support.native import NATIVE_SAMPLING

each_native = pytest.mark.parametrize("kernels", NATIVE_SAMPLING.values(), ids=NATIVE_SAMPLING)


def create_logits(num_rows: int, vocab_size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randn(num_rows, vocab_size, generator=generator) * 2
    return logits.log_softmax(dim=-1)


@each_native
@pytest.mark.parametrize("vocab_size", [1, 17, 300, 10_199])
def test_native_reductions_are_those_of_torch(kernels, vocab_size):
    logits = create_logits(5, vocab_size)
    logits[3, vocab_size // 2 :] = -torch.inf  # as bans and grammars do
    logits[3, 0] = 1.0
    logits[4] = logits[4].sort().values  # each logit exceeds all before
    assert torch.equal(kernels.max(logits), TorchSampling().max(logits))
    assert torch.equal(kernels.argmax(logits), TorchSampling().argmax(logits))
    temperatures = torch.tensor([0.1, 1.0, 2.0, 0.5, 1.0])
    count = min(vocab_size, NUM_NATIVE_CANDIDATES)
    expected = softmax(logits, temperatures).topk(count, dim=-1)
    probs, token_ids = kernels.top_probs(logits, temperatures)
    torch.testing.assert_close(probs, expected.values, rtol=1e-5, atol=1e-7)
    is_likely = (expected.values > 1e-6) & (expected.values.diff(append=torch.zeros(5, 1)) < 0)
    assert torch.equal(token_ids[is_likely], expected.indices[is_likely])


@each_native
@pytest.mark.parametrize("index", [0, 15, 49, 50])
def test_the_native_maximum_of_a_row_with_nan_is_nan(kernels, index):
    logits = create_logits(3, 51)
    logits[1, index] = torch.nan
    assert kernels.max(logits).isnan().tolist() == [False, True, False]
