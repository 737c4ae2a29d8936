"""Functions of the compiled kernels, called through ctypes with the addresses of tensors.

They need no version of Python or PyTorch that they were compiled for, and release the GIL.
"""

import ctypes
from ctypes import POINTER, byref, c_int, c_int64, c_void_p
from itertools import count, takewhile

import torch

from src.engine.kernels.arguments import CachePlaces, Projections, RotaryAngles
from src.engine.kernels.build import library_path
from src.engine.kernels.packing import PANEL
from src.engine.kernels.structs import (
    CACHE_TYPES,
    AttentionData,
    LayerData,
    LinearData,
    ProjectionData,
    address,
)

MAX_HEADS_PER_KV_HEAD = 32

CACHE_PREFETCH_DISTANCE = 16384
"""In bytes, of a decoding sequence's keys and values: no processor foresees the next block."""

_LAYER, _TENSOR = POINTER(LayerData), c_void_p
_ARGUMENT_TYPES = {
    "linear": [POINTER(LinearData), _TENSOR, _TENSOR, c_int64, c_int],
    "decode_attention": [
        POINTER(AttentionData), POINTER(ProjectionData), _TENSOR, c_int64, _TENSOR, _TENSOR,
        c_int64, c_int,
    ],
    "prefill_attention": [
        POINTER(AttentionData), POINTER(ProjectionData), _TENSOR, c_int64, _TENSOR, c_int64, c_int,
    ],
    "project_layer": [_LAYER, _TENSOR, _TENSOR, _TENSOR, _TENSOR, c_int64, c_int],
    "complete_layer": [_LAYER, _TENSOR, _TENSOR, _TENSOR, c_int64, c_int],
    "decode_layer": [
        _LAYER, _TENSOR, _TENSOR, _TENSOR, _TENSOR, c_int64, _TENSOR, _TENSOR, c_int64, c_int,
    ],
    "argmax_rows": [_TENSOR, _TENSOR, _TENSOR, c_int64, c_int64, c_int],
    "top_k_probs_rows": [_TENSOR, _TENSOR, _TENSOR, _TENSOR, c_int64, c_int64, c_int64, c_int],
}  # fmt: skip


class CpuKernels:
    """Kernels of one variant. All tensors are on the CPU, float32 unless stated otherwise.

    `prefetch_distance` is copied into the structs of linear layers that are created from then on;
    see prefetch.py.

    Raises:
        OSError: the library cannot be loaded, or the system does not permit its instructions.
    """

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.prefetch_distance = 0  # in floats
        self._library = ctypes.CDLL(str(library_path(variant)))
        if not self._library.prepare():
            raise OSError("the system does not permit the use of AMX")
        for name, types in _ARGUMENT_TYPES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = types, None
        self._library.struct_layout.restype = POINTER(c_int64)

    def struct_layout(self, index: int) -> list[int]:
        """Returns size and field offsets of the C++ struct that is mirrored by STRUCTS[index]."""
        layout = self._library.struct_layout(index)
        return list(takewhile(lambda number: number >= 0, (layout[i] for i in count())))

    def linear(self, layer: LinearData, rows: torch.Tensor) -> torch.Tensor:
        """Applies a linear layer: (..., num_inputs) to (..., num_outputs)."""
        rows = rows.contiguous()
        *leading, num_inputs = rows.shape
        output = rows.new_empty((*leading, layer.num_outputs))
        num_rows = rows.numel() // num_inputs
        self._library.linear(
            layer, rows.data_ptr(), output.data_ptr(), num_rows, torch.get_num_threads()
        )
        return output

    def can_attend(self, tokens: Projections) -> bool:
        """Checks that the attention kernels support the number and the sizes of the heads."""
        return (
            tokens.query.shape[-1] % PANEL == 0
            and tokens.value.shape[-1] % PANEL == 0
            and tokens.query.shape[1] <= MAX_HEADS_PER_KV_HEAD * tokens.key.shape[1]
        )

    def attention_data(
        self,
        num_heads: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> AttentionData:
        """Describes a layer's attention.

        Args:
            num_heads: query heads.
            keys: (num_blocks, block_size, num_kv_heads, key_dim), contiguous, one of CACHE_TYPES;
                the block size is a power of two.
            values: (num_blocks, block_size, num_kv_heads, value_dim), as the keys.
            scaling: factor of the scores.
            window: tokens that a token sees, itself included; None: all.
            softcap: bounds the scaled scores: softcap * tanh(scores / softcap).
            sinks: (num_heads,), scores that take part in the softmax without a value, contiguous.
                The caller keeps them alive.
        """
        _, block_size, num_kv_heads, key_dim = keys.shape
        assert keys.is_contiguous()
        assert values.is_contiguous()
        assert block_size.bit_count() == 1
        assert keys.dtype == values.dtype
        return AttentionData(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            key_dim=key_dim,
            value_dim=values.shape[-1],
            window=window or 0,
            block_size=block_size,
            cache_type=CACHE_TYPES.index(keys.dtype),
            keys=keys.data_ptr(),
            values=values.data_ptr(),
            sinks=address(sinks),
            prefetch_distance=CACHE_PREFETCH_DISTANCE,
            scale=scaling,
            softcap=softcap or 0,
        )

    def decode_attention(
        self, layer: AttentionData, tokens: Projections, places: CachePlaces, output: torch.Tensor
    ) -> None:
        """Stores each row's key and value at its place; attends to all tokens up to that.

        Args:
            layer: see `attention_data`.
            tokens: heads that `can_attend` accepts.
            places: one for each row.
            output: (num_rows, num_heads, value_dim), contiguous; it is filled.
        """
        if not len(output):
            return
        tokens = _contiguous_heads(tokens)
        self._library.decode_attention(
            byref(layer),
            byref(_projection_data(tokens)),
            places.block_tables.data_ptr(),
            places.block_tables.shape[1],
            places.positions.data_ptr(),
            output.data_ptr(),
            len(output),
            torch.get_num_threads(),
        )

    def prefill_attention(
        self,
        layer: AttentionData,
        tokens: Projections,
        block_table: torch.Tensor,
        start: int,
        output: torch.Tensor,
    ) -> None:
        """Stores keys and values of consecutive tokens of one sequence; attends causally.

        Args:
            layer: see `attention_data`.
            tokens: heads that `can_attend` accepts.
            block_table: (width,) int32, contiguous, the indices of the sequence's blocks.
            start: position of the first token.
            output: (num_tokens, num_heads, value_dim), contiguous; it is filled.
        """
        if not len(output):
            return
        tokens = _contiguous_heads(tokens)
        self._library.prefill_attention(
            byref(layer),
            byref(_projection_data(tokens)),
            block_table.data_ptr(),
            start,
            output.data_ptr(),
            len(output),
            torch.get_num_threads(),
        )

    def project_layer(
        self, layer: LayerData, hidden: torch.Tensor, angles: RotaryAngles
    ) -> torch.Tensor:
        """Computes a layer's queries, keys and values, side by side: (num_rows, num_outputs).

        Args:
            layer: the decoder layer.
            hidden: (num_rows, size), the layer's input, contiguous.
            angles: of RoPE.
        """
        output = hidden.new_empty(len(hidden), layer.qkv.num_outputs)
        self._library.project_layer(
            layer,
            hidden.data_ptr(),
            address(angles.cosine),
            address(angles.sine),
            output.data_ptr(),
            len(hidden),
            torch.get_num_threads(),
        )
        return output

    def complete_layer(
        self, layer: LayerData, hidden: torch.Tensor, attended: torch.Tensor
    ) -> torch.Tensor:
        """Computes a layer's output, (num_rows, size), after its attention.

        Args:
            layer: the decoder layer.
            hidden: (num_rows, size), the layer's input, contiguous.
            attended: (num_rows, num_heads * value_dim), the output of attention, contiguous.
        """
        output = torch.empty_like(hidden)
        self._library.complete_layer(
            layer,
            hidden.data_ptr(),
            attended.data_ptr(),
            output.data_ptr(),
            len(hidden),
            torch.get_num_threads(),
        )
        return output

    def decode_layer(
        self, layer: LayerData, hidden: torch.Tensor, angles: RotaryAngles, places: CachePlaces
    ) -> torch.Tensor:
        """Computes a layer's output, (num_rows, size), if each row is the next token of a sequence.

        Args:
            layer: the decoder layer.
            hidden: (num_rows, size), the layer's input, contiguous.
            angles: of RoPE.
            places: one for each row.
        """
        output = torch.empty_like(hidden)
        self._library.decode_layer(
            layer,
            hidden.data_ptr(),
            address(angles.cosine),
            address(angles.sine),
            places.block_tables.data_ptr(),
            places.block_tables.shape[1],
            places.positions.data_ptr(),
            output.data_ptr(),
            len(hidden),
            torch.get_num_threads(),
        )
        return output

    def argmax(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns each row's maximum, NaN if the row has a NaN, and its first index.

        Args:
            scores: (num_rows, size).

        Returns:
            (num_rows,), and (num_rows,) int64.
        """
        scores = scores.contiguous()
        maxima, indices = scores.new_empty(len(scores)), torch.empty(len(scores), dtype=torch.int64)
        num_rows, size = scores.shape
        self._library.argmax_rows(
            scores.data_ptr(),
            maxima.data_ptr(),
            indices.data_ptr(),
            num_rows,
            size,
            torch.get_num_threads(),
        )
        return maxima, indices

    def top_k_probs(
        self, logits: torch.Tensor, temperatures: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the largest probabilities of each row, in falling order, and their token ids.

        Args:
            logits: (num_rows, vocab_size), the largest of each row finite.
            temperatures: (num_rows,).
            count: at most vocab_size. If fewer tokens are possible the rest have probability 0.

        Returns:
            (num_rows, count), and (num_rows, count) int64.
        """
        logits = logits.contiguous()
        num_rows, vocab_size = logits.shape
        probs = logits.new_empty(num_rows, count)
        token_ids = torch.empty(probs.shape, dtype=torch.int64)
        self._library.top_k_probs_rows(
            logits.data_ptr(),
            temperatures.data_ptr(),
            probs.data_ptr(),
            token_ids.data_ptr(),
            num_rows,
            vocab_size,
            count,
            torch.get_num_threads(),
        )
        return probs, token_ids


def _contiguous_heads(tokens: Projections) -> Projections:
    """Copies heads of (num_rows, num_heads, dim) only if numbers of a head are not adjacent."""
    query, key, value = (
        heads if heads.stride(-1) == 1 else heads.contiguous()
        for heads in (tokens.query, tokens.key, tokens.value)
    )
    return Projections(query, key, value)


def _projection_data(tokens: Projections) -> ProjectionData:
    query, key, value = tokens.query, tokens.key, tokens.value
    return ProjectionData(
        query=query.data_ptr(),
        key=key.data_ptr(),
        value=value.data_ptr(),
        query_row_stride=query.stride(0),
        query_head_stride=query.stride(1),
        key_row_stride=key.stride(0),
        key_head_stride=key.stride(1),
        value_row_stride=value.stride(0),
        value_head_stride=value.stride(1),
    )
