"""Functions of the kernels: heads that are supported, and concurrent calls."""

from concurrent.futures import ThreadPoolExecutor

import torch

from src.engine.backend import create_native_backend
from src.engine.kernels.arguments import Projections
from tests.support.native import each_variant


@each_variant
def test_refuses_heads_that_the_kernel_does_not_support(kernels):
    def can_attend(num_heads, num_kv_heads, key_dim, value_dim):
        return kernels.can_attend(
            Projections(
                torch.empty(1, num_heads, key_dim),
                torch.empty(1, num_kv_heads, key_dim),
                torch.empty(1, num_kv_heads, value_dim),
            )
        )

    assert can_attend(64, 2, 64, 128)
    assert not can_attend(66, 2, 64, 64)
    assert not can_attend(4, 4, 8, 16)
    assert not can_attend(4, 4, 16, 24)


@each_variant
def test_concurrent_calls_do_not_disturb_each_other(kernels, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)  # more than there are cores
    create_linear = create_native_backend(kernels).create_linear
    layer = create_linear(torch.randn(700, 64), torch.randn(700), "none")

    def compute(seed: int) -> bool:
        rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(seed))
        expected = rows @ layer.weight.T + layer.bias
        return all(torch.allclose(layer(rows), expected, atol=1e-4) for _ in range(1000))

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(compute, range(3)))
