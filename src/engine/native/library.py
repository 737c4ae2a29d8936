"""The compiled kernels, as functions of tensors."""

import ctypes
import functools
import logging

import torch

from src.engine.config import Kernels
from src.engine.native.build import library_path, usable_variants
from src.errors import ModelLoadError

logger = logging.getLogger(__name__)

BLOCK = 64
"""Weights, scales and shifts are filled up to a multiple of so many outputs."""

PANEL = 16
"""Outputs that lie side by side; vectors of this length need no care for what is left over."""

MAX_GROUP = 32
"""Query heads that share a key head at most."""

_POINTER, _LENGTH, _COUNT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_ARGUMENTS = {
    "linear_float32": [*[_POINTER] * 4, *[_LENGTH] * 3, _COUNT],
    "linear_int8": [*[_POINTER] * 8, *[_LENGTH] * 3, _COUNT],
    "decode_attention": [
        *[_POINTER] * 9, *[_LENGTH] * 5, ctypes.c_float, _LENGTH, _COUNT,
    ],
}  # fmt: skip


class Library:
    """One variant of the kernels. All tensors are on the CPU, and float32 if not said otherwise."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.has_int8 = variant == "avx512vnni"
        self._functions = ctypes.CDLL(str(library_path(variant)))
        for name, types in _ARGUMENTS.items():
            if name != "linear_int8" or self.has_int8:
                getattr(self._functions, name).argtypes = types
                getattr(self._functions, name).restype = None

    def linear_float32(
        self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, num_outputs: int
    ) -> torch.Tensor:
        """(..., num_inputs) to (..., num_outputs).

        Args:
            rows: (..., num_inputs).
            weight: panels, (num_panels, num_inputs, PANEL).
            bias: (num_outputs,), if there is one.
            num_outputs: of the panels' outputs the first so many.
        """
        rows = rows.contiguous()
        num_inputs = rows.shape[-1]
        output = rows.new_empty((*rows.shape[:-1], num_outputs))
        self._functions.linear_float32(
            rows.data_ptr(),
            weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
            output.data_ptr(),
            rows.numel() // num_inputs,
            num_inputs,
            num_outputs,
            torch.get_num_threads(),
        )
        return output

    def linear_int8(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        scales: torch.Tensor,
        shifts: torch.Tensor,
        bias: torch.Tensor | None,
        num_outputs: int,
    ) -> torch.Tensor:
        """(..., num_inputs) to (..., num_outputs), with num_inputs a multiple of PANEL.

        Args:
            rows: (..., num_inputs).
            weight: panels of int8, (num_panels, num_inputs / 4, PANEL, 4).
            scales: (num_panels * PANEL,) of the outputs.
            shifts: likewise, int32: 128 times the sums of the outputs' weights.
            bias: (num_outputs,), if there is one.
            num_outputs: of the panels' outputs the first so many.
        """
        rows = rows.contiguous()
        num_inputs = rows.shape[-1]
        num_rows = rows.numel() // num_inputs
        output = rows.new_empty((*rows.shape[:-1], num_outputs))
        quantized = torch.empty((num_rows, num_inputs), dtype=torch.uint8)
        input_scales = rows.new_empty(num_rows)
        self._functions.linear_int8(
            rows.data_ptr(),
            weight.data_ptr(),
            scales.data_ptr(),
            shifts.data_ptr(),
            None if bias is None else bias.data_ptr(),
            output.data_ptr(),
            quantized.data_ptr(),
            input_scales.data_ptr(),
            num_rows,
            num_inputs,
            num_outputs,
            torch.get_num_threads(),
        )
        return output

    def can_attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
        """Whether heads' sizes are multiples of PANEL, and few share a key; see below."""
        return (
            query.shape[-1] % PANEL == 0
            and value.shape[-1] % PANEL == 0
            and query.shape[1] <= MAX_GROUP * key.shape[1]
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
        num_rows, num_heads, key_dim = query.shape
        if not num_rows:
            return
        query, key, value = (
            given if given.stride(-1) == 1 else given.contiguous() for given in (query, key, value)
        )
        self._functions.decode_attention(
            *(query.data_ptr(), key.data_ptr(), value.data_ptr()),
            *(keys.data_ptr(), values.data_ptr(), output.data_ptr()),
            *(slots.data_ptr(), positions.data_ptr()),
            _lengths(
                *(*query.stride()[:2], *key.stride()[:2], *value.stride()[:2]),
                *(keys.stride(0), values.stride(0)),
            ),
            *(num_rows, num_heads, key.shape[1], key_dim, value.shape[-1]),
            *(scaling, window, torch.get_num_threads()),
        )


def _lengths(*numbers: int) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def choose_library(kernels: Kernels, model_is_float32_on_cpu: bool) -> Library | None:
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
def find_library() -> Library | None:
    """The best one that was built and that this processor can run."""
    for variant in usable_variants():
        try:
            return Library(variant)
        except OSError as error:
            logger.warning("our own kernels for %s cannot be loaded: %s", variant, error)
    return None
