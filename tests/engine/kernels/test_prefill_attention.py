"""Attention of chunks of a prompt against a reference, and its independence of the chunks."""

import pytest
import torch

from tests.engine.kernels.paged_attention import (
    DTYPES,
    OPTIONS,
    PLAIN,
    SHAPES,
    Layer,
    Options,
    Shape,
    create_tokens,
    prefill,
)
from tests.support.native import each_variant

SPANS = [(0, 1), (0, 3), (0, 64), (0, 65), (0, 130), (63, 64), (64, 66), (15, 200), (190, 198)]
"""Positions of the chunks, around the borders of blocks and of tiles, which have 64 tokens."""

SHAPE = Shape(9, 3, 64, 64)


def attend(kernels, layer, spans, length=200, block_seed=0):
    """Returns the kernel's output and the reference's, for consecutive chunks of a sequence."""
    torch.manual_seed(0)
    tokens = create_tokens(layer.shape, length)
    torch.manual_seed(block_seed)
    [table] = layer.create_tables([length])
    layer.write_visible(table, tokens, spans[0][0])
    outputs = []
    for start, end in spans:
        outputs.append(prefill(kernels, layer, table, tokens[start:end], start))
        places = layer.places(table, slice(start, end))
        assert torch.equal(layer.keys[places], tokens.key[start:end].to(layer.dtype))
        assert torch.equal(layer.values[places], tokens.value[start:end].to(layer.dtype))
    span = slice(spans[0][0], spans[-1][1])
    return torch.cat(outputs), layer.attend_by_definition(tokens, span).float()


def create_layer(shape=SHAPE, options=PLAIN, block_size=16, dtype=torch.float32):
    return Layer(shape, options, block_size, 200 // block_size + 10, dtype)


@each_variant
@pytest.mark.parametrize("block_size", [4, 16, 64])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_reference_and_reads_no_token_that_is_not_visible(
    kernels, shape, options, block_size
):
    for span in SPANS:
        output, expected = attend(kernels, create_layer(shape, options, block_size), [span])
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@each_variant
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_cache_may_have_16_bits(kernels, shape, dtype):
    layer = create_layer(shape, dtype=dtype)
    output, expected = attend(kernels, layer, [(15, 70), (70, 73), (73, 200)])
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@each_variant
@pytest.mark.parametrize("num_heads", [1, 2, 5, 7, 16, 31, 32])
def test_any_number_of_heads_may_share_a_key_head(kernels, num_heads):
    layer = create_layer(Shape(num_heads, 1, 16, 32))
    output, expected = attend(kernels, layer, [(3, 90)])
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@each_variant
@pytest.mark.parametrize("options", [PLAIN, Options(window=30)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 7, 16, 64, 100])
def test_a_token_does_not_depend_on_the_chunks(kernels, options, size):
    whole, _ = attend(kernels, create_layer(options=options), [(0, 200)])
    chunks = [(start, min(200, start + size)) for start in range(0, 200, size)]
    output, _ = attend(kernels, create_layer(options=options), chunks)
    assert torch.equal(output, whole)


@each_variant
def test_a_token_does_not_depend_on_the_number_of_threads(kernels, monkeypatch):
    outputs = []
    for num_threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=num_threads: count)
        outputs.append(attend(kernels, create_layer(), [(0, 200)])[0])
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@each_variant
@pytest.mark.parametrize("block_size", [1, 4, 16, 64])
def test_a_token_does_not_depend_on_the_places_of_its_blocks(kernels, block_size):
    expected, _ = attend(kernels, create_layer(), [(20, 200)])
    layer = create_layer(block_size=block_size)
    output, _ = attend(kernels, layer, [(20, 200)], block_seed=1)
    assert torch.equal(output, expected)


@each_variant
def test_nan_of_a_token_does_not_spread_over_the_sequence(kernels):
    torch.manual_seed(0)
    layer = create_layer()
    tokens = create_tokens(SHAPE, 100)
    tokens.key[90], tokens.value[90] = torch.nan, torch.nan
    [table] = layer.create_tables([100])
    output = prefill(kernels, layer, table, tokens, 0)
    assert output[90:].isnan().all()
    assert output[:80].isfinite().all()
