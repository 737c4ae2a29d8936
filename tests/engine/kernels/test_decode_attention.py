"""Attention of decoding sequences against a reference, and its batch invariance."""

import pytest
import torch

from src.engine.kernels import bindings
from src.engine.kernels.arguments import Projections
from tests.engine.kernels.paged_attention import (
    DTYPES,
    OPTIONS,
    PLAIN,
    SHAPES,
    Layer,
    Options,
    Shape,
    create_tokens,
    decode,
)
from tests.support.native import each_variant

LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 128, 130, 200]
"""Tokens of the sequences; a tile has 64."""


def attend(
    kernels,
    shape,
    options=PLAIN,
    block_size=16,
    rows=slice(None),
    block_seed=0,
    dtype=torch.float32,
):
    """Returns the kernel's output and the reference's, for some of the sequences of LENGTHS."""
    torch.manual_seed(0)
    num_blocks = sum(LENGTHS) // block_size + len(LENGTHS) + 3
    layer = Layer(shape, options, block_size, num_blocks, dtype)
    sequences = [create_tokens(shape, length) for length in LENGTHS]
    tokens = create_tokens(shape, len(LENGTHS))
    torch.manual_seed(block_seed)
    tables = layer.create_tables(LENGTHS)
    for row, (length, sequence) in enumerate(zip(LENGTHS, sequences, strict=True)):
        layer.write_visible(tables[row], sequence, length - 1)
        for new, old in [
            (tokens.query, sequence.query),
            (tokens.key, sequence.key),
            (tokens.value, sequence.value),
        ]:
            new[row] = old[-1]
    positions = [length - 1 for length in LENGTHS][rows]
    output = decode(kernels, layer, tables[rows], tokens[rows], positions)
    for table, position, key, value in zip(
        tables[rows], positions, tokens.key[rows], tokens.value[rows], strict=True
    ):
        places = layer.places(table, slice(position, position + 1))
        assert torch.equal(layer.keys[places][0], key.to(dtype))
        assert torch.equal(layer.values[places][0], value.to(dtype))
    expected = [
        layer.attend_by_definition(sequence, slice(len(sequence.query) - 1, len(sequence.query)))
        for sequence in sequences[rows]
    ]
    return output, torch.cat(expected).float()


@each_variant
@pytest.mark.parametrize("block_size", [4, 16, 64])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_reference_and_reads_no_token_that_is_not_visible(
    kernels, shape, options, block_size
):
    output, expected = attend(kernels, shape, options, block_size)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@each_variant
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_cache_may_have_16_bits(kernels, shape, dtype):
    output, expected = attend(kernels, shape, dtype=dtype)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@each_variant
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounds_to_the_cache_as_pytorch_does(kernels, dtype):
    layer = Layer(Shape(1, 1, 16, 2**16), PLAIN, block_size=1, num_blocks=2, dtype=dtype)
    bits = torch.arange(-(2**31), 2**31, 2**16) + 2**15  # ties of bfloat16, and NaN and infinities
    for offset in (-(2**15), -1, 0, 1):
        value = (bits + offset).to(torch.int32).view(torch.float32)
        tokens = Projections(torch.ones(1, 1, 16), torch.ones(1, 1, 16), value[None, None])
        decode(kernels, layer, torch.zeros(1, 1, dtype=torch.int32), tokens, [0])
        torch.testing.assert_close(
            layer.values[0, 0, 0], value.to(dtype), rtol=0, atol=0, equal_nan=True
        )


@each_variant
def test_blocks_of_one_token_are_possible(kernels):
    output, expected = attend(kernels, Shape(4, 2, 16, 48), block_size=1)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@each_variant
@pytest.mark.parametrize("options", [PLAIN, Options(window=30)], ids=str)
def test_a_row_does_not_depend_on_the_other_rows(kernels, options):
    together, _ = attend(kernels, Shape(9, 3, 64, 64), options)
    for row in range(len(LENGTHS)):
        alone, _ = attend(kernels, Shape(9, 3, 64, 64), options, rows=slice(row, row + 1))
        assert torch.equal(alone[0], together[row])


@each_variant
def test_a_row_does_not_depend_on_the_number_of_threads(kernels, monkeypatch):
    outputs = []
    for num_threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=num_threads: count)
        outputs.append(attend(kernels, Shape(12, 4, 64, 64))[0])
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@each_variant
@pytest.mark.parametrize("block_size", [4, 16, 64])
def test_a_row_does_not_depend_on_the_places_of_its_blocks(kernels, block_size):
    shape = Shape(9, 3, 64, 64)
    expected, _ = attend(kernels, shape, block_size=16)
    output, _ = attend(kernels, shape, block_size=block_size, block_seed=1)
    assert torch.equal(output, expected)


@each_variant
def test_prefetching_changes_no_result(kernels, monkeypatch):
    outputs = []
    for distance in (0, 4096, 65536):
        monkeypatch.setattr(bindings, "CACHE_PREFETCH_DISTANCE", distance)
        outputs.append(attend(kernels, Shape(9, 3, 64, 64))[0])
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@each_variant
def test_attention_of_nan_is_nan(kernels):
    layer = Layer(Shape(2, 2, 16, 16), PLAIN, block_size=8, num_blocks=2)
    query = torch.full((1, 2, 16), torch.nan)
    tokens = Projections(query, torch.ones(1, 2, 16), torch.ones(1, 2, 16))
    tables = torch.zeros(1, 1, dtype=torch.int32)
    assert decode(kernels, layer, tables, tokens, [0]).isnan().all()
