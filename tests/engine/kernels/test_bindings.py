"""Functions of the kernels: attention against PyTorch's, and concurrent calls."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from src.engine.backend import create_native_backend
from src.engine.kernels.arguments import CachePlaces, Projections
from tests.support.native import each_variant

CAPACITY = 200
LENGTHS = [1, 2, 63, 64, 65, 128, 130, 200]
"""Tokens of the sequences; a tile has 64."""

SCALING = 0.2


def create_projections(num_heads, num_kv_heads, key_dim, value_dim) -> Projections:
    """Creates views of one product, with heads that are not adjacent, as a model does."""
    widths = [num_heads * key_dim, num_kv_heads * key_dim, num_kv_heads * value_dim]
    product = torch.randn(len(LENGTHS), sum(widths) + 3)[:, 3:]
    query, key, value = product.split(widths, dim=1)
    return Projections(
        query.unflatten(1, (num_heads, key_dim)),
        key.unflatten(1, (num_kv_heads, key_dim)),
        value.unflatten(1, (num_kv_heads, value_dim)),
    )


def attend_by_torch(tokens: Projections, keys, values, slots, window) -> torch.Tensor:
    """Computes each row by itself: (num_rows, num_heads, value_dim)."""
    outputs = []
    for row, length in enumerate(LENGTHS):
        span = slice(max(0, length - window) if window else 0, length)
        row_keys, row_values = keys[slots[row]].clone(), values[slots[row]].clone()
        row_keys[length - 1], row_values[length - 1] = tokens.key[row], tokens.value[row]
        output = scaled_dot_product_attention(
            tokens.query[row][:, None],
            row_keys[span].transpose(0, 1),
            row_values[span].transpose(0, 1),
            scale=SCALING,
            enable_gqa=True,
        )
        outputs.append(output[:, 0])
    return torch.stack(outputs)


def attend(kernels, shape, window=None, rows=slice(None), fill=0.0):
    """Returns the output of the kernel, and of PyTorch, for some of the sequences of LENGTHS.

    Args:
        shape: num_heads, num_kv_heads, key_dim, value_dim.
        rows: of LENGTHS.
        fill: the cache after a sequence's end.
    """
    torch.manual_seed(0)
    num_heads, num_kv_heads, key_dim, value_dim = shape
    num_slots = len(LENGTHS) + 2
    keys = torch.randn(num_slots, CAPACITY, num_kv_heads, key_dim)
    values = torch.randn(num_slots, CAPACITY, num_kv_heads, value_dim)
    tokens = create_projections(*shape)
    slots = torch.randperm(num_slots)[: len(LENGTHS)]
    for slot, length in zip(slots, LENGTHS, strict=True):
        keys[slot, length:] = values[slot, length:] = fill
    expected = attend_by_torch(tokens, keys, values, slots, window)[rows]
    places = CachePlaces(slots[rows], torch.tensor(LENGTHS)[rows] - 1)
    tokens = tokens[rows]
    output = torch.full((len(places.slots), num_heads, value_dim), torch.nan)
    layer = kernels.attention_data(num_heads, keys, values, SCALING, window)
    kernels.decode_attention(layer, tokens, places, output)
    assert torch.equal(keys[places.slots, places.positions], tokens.key)
    assert torch.equal(values[places.slots, places.positions], tokens.value)
    return output, expected


@each_variant
@pytest.mark.parametrize("window", [None, 1, 16, 100])
@pytest.mark.parametrize(
    "shape",
    [
        (12, 12, 64, 64),
        (9, 3, 64, 64),
        (8, 1, 256, 256),
        (4, 2, 16, 48),
        (64, 2, 80, 80),
        (96, 96, 16, 16),
    ],
    ids=str,
)
def test_attention_is_that_of_torch_and_reads_nothing_after_a_sequences_end(kernels, shape, window):
    output, expected = attend(kernels, shape, window, fill=torch.nan)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@each_variant
def test_attention_of_a_sequence_does_not_depend_on_the_others(kernels):
    together, _ = attend(kernels, (9, 3, 64, 64))
    for row in range(len(LENGTHS)):
        alone, _ = attend(kernels, (9, 3, 64, 64), rows=slice(row, row + 1))
        assert torch.equal(alone[0], together[row])


@each_variant
def test_attention_of_nan_is_nan(kernels):
    query = torch.full((1, 2, 16), torch.nan)
    tokens = Projections(query, torch.ones(1, 2, 16), torch.ones(1, 2, 16))
    keys, values, output = torch.zeros(1, 8, 2, 16), torch.zeros(1, 8, 2, 16), torch.zeros(1, 2, 16)
    zero = torch.zeros(1, dtype=torch.int64)
    layer = kernels.attention_data(2, keys, values, 1.0, None)
    kernels.decode_attention(layer, tokens, CachePlaces(zero, zero), output)
    assert output.isnan().all()


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
