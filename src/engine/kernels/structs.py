"""What the kernels are told of a model's layers: the structures of `kernels.cpp`'s headers.

They hold addresses: whoever makes one keeps the tensors. All are on the CPU, and float32 if not
said otherwise. Rows lie one after the other.
"""

from ctypes import Structure, c_float, c_int64, c_void_p

import torch

ACTIVATIONS = ("gelu_tanh", "silu")
"""In the order of the kernels' own numbers."""


class LinearData(Structure):
    """weight: panels, see `linears.py`; scales and shifts: null where it is float32.

    ahead: of what is multiplied so many floats are fetched from memory; see `prefetch.py`.
    """

    _fields_ = [
        *((name, c_void_p) for name in ("weight", "bias", "scales", "shifts")),
        *((name, c_int64) for name in ("inputs", "outputs", "ahead")),
    ]


class NormData(Structure):
    """A layer norm if it is centred, else an RMS norm; without a weight none at all."""

    _fields_ = [
        *((name, c_void_p) for name in ("weight", "bias")),
        *((name, c_int64) for name in ("size", "centred")),
        ("epsilon", c_float),
    ]


class AttentionData(Structure):
    """What a layer asks of attention, and where it keeps keys and values; strides count floats."""

    _fields_ = [
        *((name, c_int64) for name in ("num_heads", "num_kv_heads", "key_dim", "value_dim")),
        ("window", c_int64),
        *((name, c_void_p) for name in ("keys", "values")),
        *((name, c_int64) for name in ("keys_slot", "values_slot", "ahead")),
        ("scale", c_float),
    ]


class ProjectedData(Structure):
    """The queries, keys and values of a step's rows, and the floats from one to the next."""

    _fields_ = [
        *((name, c_void_p) for name in ("query", "key", "value")),
        *(
            (f"{name}_{stride}", c_int64)
            for name in ("query", "key", "value")
            for stride in ("row", "head")
        ),
    ]


class LayerData(Structure):
    """A whole layer of a decoder."""

    _fields_ = [
        *((name, NormData) for name in ("attention_norm", "query_norm", "key_norm", "mlp_norm")),
        *((name, LinearData) for name in ("qkv", "output", "up", "down")),
        ("attention", AttentionData),
        *((name, c_int64) for name in ("rotary_dim", "activation", "gated")),
    ]


def address(tensor: torch.Tensor | None) -> int | None:
    """Where a tensor's numbers are; None stays none."""
    return None if tensor is None else tensor.data_ptr()
