"""The compiled kernels, as functions of tensors."""

import ctypes
import functools
import logging
from ctypes import POINTER, byref, c_int, c_int64, c_void_p

import torch

from src.engine.config import Kernels
from src.engine.kernels.build import library_path, usable_variants
from src.engine.kernels.structs import (
    AttentionData,
    LayerData,
    LinearData,
    ProjectedData,
    address,
)
from src.errors import ModelLoadError

logger = logging.getLogger(__name__)

BLOCK = 64
"""Weights, scales and shifts are filled up to a multiple of so many outputs."""

PANEL = 16
"""Outputs that lie side by side; vectors of this length need no care for what is left over."""

MAX_GROUP = 32
"""Query heads that share a key head at most."""

_LAYER, _PROJECTED = POINTER(LayerData), POINTER(ProjectedData)
_ARGUMENTS = {
    "linear": [POINTER(LinearData), *[c_void_p] * 2, c_int64, c_int],
    "attend_to_slots": [POINTER(AttentionData), _PROJECTED, *[c_void_p] * 3, c_int64, c_int],
    "project_layer": [_LAYER, *[c_void_p] * 4, c_int64, c_int],
    "complete_layer": [_LAYER, *[c_void_p] * 3, c_int64, c_int],
    "decode_layer": [_LAYER, *[c_void_p] * 6, c_int64, c_int],
    "largest_of_rows": [*[c_void_p] * 3, *[c_int64] * 2, c_int],
    "most_likely_of_rows": [*[c_void_p] * 4, *[c_int64] * 3, c_int],
}  # fmt: skip


class CpuKernels:
    """One variant of the kernels. All tensors are on the CPU, and float32 if not said otherwise.

    Raises:
        OSError: it cannot be loaded, or the system does not let it run.
    """

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.ahead = 0  # floats from what a product reads to what it fetches; see prefetch.py
        functions = ctypes.CDLL(str(library_path(variant)))
        if not functions.prepare():
            raise OSError("the system does not let it use the processor's tiles")
        for name, types in _ARGUMENTS.items():
            getattr(functions, name).argtypes = types
            getattr(functions, name).restype = None
        self._linear = functions.linear
        self._attend = functions.attend_to_slots
        self._project = functions.project_layer
        self._complete = functions.complete_layer
        self._decode = functions.decode_layer
        self._largest = functions.largest_of_rows
        self._most_likely = functions.most_likely_of_rows

    def linear(self, data: LinearData, rows: torch.Tensor) -> torch.Tensor:
        """(..., num_inputs) to (..., num_outputs)."""
        rows = rows.contiguous()
        *leading, num_inputs = rows.shape
        output = rows.new_empty((*leading, data.outputs))
        num_rows = rows.numel() // num_inputs
        self._linear(data, rows.data_ptr(), output.data_ptr(), num_rows, torch.get_num_threads())
        return output

    def can_attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
        """Whether heads' sizes are multiples of PANEL, and few share a key head; see below."""
        return (
            query.shape[-1] % PANEL == 0
            and value.shape[-1] % PANEL == 0
            and query.shape[1] <= MAX_GROUP * key.shape[1]
        )

    def attention_data(
        self,
        num_heads: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float,
        window: int,
    ) -> AttentionData:
        """For `decode_attention`, whose arguments these are."""
        num_kv_heads, key_dim = keys.shape[2:]
        return AttentionData(
            *(num_heads, num_kv_heads, key_dim, values.shape[-1], window),
            *(keys.data_ptr(), values.data_ptr(), keys.stride(0), values.stride(0)),
            *(2 * self.ahead, scaling),
        )

    def decode_attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        output: torch.Tensor,
        scaling: float,
        window: int,
    ) -> None:
        """Writes each row's key and value into its slot, and attends to all up to its position.

        Args:
            query: (num_rows, num_heads, key_dim), as `can_attend` says.
            key: (num_rows, num_kv_heads, key_dim).
            value: (num_rows, num_kv_heads, value_dim).
            keys: (num_slots, capacity, num_kv_heads, key_dim), with nothing between tokens.
            values: likewise.
            slots: (num_rows,) int64, each another one.
            positions: (num_rows,) int64.
            output: (num_rows, num_heads, value_dim), without gaps; it is written.
            scaling: of the scores.
            window: a token sees itself and so many minus one before it; 0: all.
        """
        num_rows, num_heads, _ = query.shape
        if not num_rows:
            return
        given = [one if one.stride(-1) == 1 else one.contiguous() for one in (query, key, value)]
        layer = self.attention_data(num_heads, keys, values, scaling, window)
        strides = [stride for one in given for stride in one.stride()[:2]]
        rows = ProjectedData(*map(address, given), *strides)
        self._attend(
            *(byref(layer), byref(rows), slots.data_ptr(), positions.data_ptr()),
            *(output.data_ptr(), num_rows, torch.get_num_threads()),
        )

    def project_layer(
        self, layer: LayerData, hidden: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
    ) -> torch.Tensor:
        """A layer's queries, keys and values, side by side: (num_rows, num_outputs).

        Args:
            layer: what it is made of.
            hidden: (num_rows, size), the layer's input.
            cosine: (num_rows, rotary_dim), of the angles by which pairs of numbers turn.
            sine: likewise.
        """
        output = hidden.new_empty(len(hidden), layer.qkv.outputs)
        self._project(
            *(layer, hidden.data_ptr(), cosine.data_ptr(), sine.data_ptr(), output.data_ptr()),
            *(len(hidden), torch.get_num_threads()),
        )
        return output

    def complete_layer(
        self, layer: LayerData, hidden: torch.Tensor, attended: torch.Tensor
    ) -> torch.Tensor:
        """A layer's output, (num_rows, size).

        Args:
            layer: what it is made of.
            hidden: (num_rows, size), the layer's input.
            attended: (num_rows, num_heads * value_dim), what attention gave.
        """
        output = torch.empty_like(hidden)
        self._complete(
            *(layer, hidden.data_ptr(), attended.data_ptr(), output.data_ptr()),
            *(len(hidden), torch.get_num_threads()),
        )
        return output

    def decode_layer(
        self,
        layer: LayerData,
        hidden: torch.Tensor,
        cosine: torch.Tensor,
        sine: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """A layer's output for rows that each are the next token of a sequence, (num_rows, size).

        Args:
            layer: what it is made of.
            hidden: (num_rows, size), the layer's input.
            cosine: (num_rows, rotary_dim), of the angles by which pairs of numbers turn.
            sine: likewise.
            slots: (num_rows,) int64, each another one.
            positions: (num_rows,) int64.
        """
        output = torch.empty_like(hidden)
        self._decode(
            *(layer, hidden.data_ptr(), cosine.data_ptr(), sine.data_ptr()),
            *(slots.data_ptr(), positions.data_ptr(), output.data_ptr()),
            *(len(hidden), torch.get_num_threads()),
        )
        return output

    def largest(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each row's largest score, and the first place where it is; NaN where one is.

        Args:
            scores: (num_rows, size).

        Returns:
            (num_rows,), and (num_rows,) int64.
        """
        scores = scores.contiguous()
        values, places = scores.new_empty(len(scores)), torch.empty(len(scores), dtype=torch.int64)
        self._largest(
            *(scores.data_ptr(), values.data_ptr(), places.data_ptr()),
            *(*scores.shape, torch.get_num_threads()),
        )
        return values, places

    def most_likely(
        self, logits: torch.Tensor, temperatures: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The probabilities of each row's most likely tokens, the largest first, and their ids.

        Args:
            logits: (num_rows, vocab_size), each row's largest finite.
            temperatures: (num_rows,).
            count: at most vocab_size; where fewer are possible the last have probability 0.

        Returns:
            (num_rows, count), and (num_rows, count) int64.
        """
        logits = logits.contiguous()
        probs = logits.new_empty(len(logits), count)
        token_ids = torch.empty(probs.shape, dtype=torch.int64)
        self._most_likely(
            *(logits.data_ptr(), temperatures.data_ptr(), probs.data_ptr(), token_ids.data_ptr()),
            *(*logits.shape, count, torch.get_num_threads()),
        )
        return probs, token_ids


def choose_library(kernels: Kernels, model_is_float32_on_cpu: bool) -> CpuKernels | None:
    """The kernels that a model is to use; None: PyTorch's.

    Raises:
        ModelLoadError: it is to use ours, and there are none.
    """
    if kernels == "pytorch":
        return None
    library = find_library() if model_is_float32_on_cpu else None
    if library is not None:
        logger.info("KERNELS=%s: our own, for %s", kernels, library.variant)
        return library
    if model_is_float32_on_cpu:
        problem, remedy = "none were built for this processor", "make install with a C++ compiler"
    else:
        problem, remedy = "they are for float32 on a CPU", "DEVICE=cpu and DTYPE=float32"
    if kernels == "native":
        raise ModelLoadError(f"KERNELS=native: {problem}. Use {remedy}, or KERNELS=auto.")
    logger.info("KERNELS=%s: PyTorch's, as of our own %s", kernels, problem)
    return None


@functools.cache
def find_library() -> CpuKernels | None:
    """The best one that was built and that this processor can run."""
    for variant in usable_variants():
        try:
            return CpuKernels(variant)
        except OSError as error:
            logger.warning("our own kernels for %s cannot be loaded: %s", variant, error)
    return None
