"""ctypes mirrors of the C++ structs that describe a model's layers to the kernels.

A struct holds addresses, so its creator keeps the tensors alive. Tensors are on the CPU and
contiguous, float32 unless stated otherwise. Fields have the order and the types of the C++ structs;
tests/engine/kernels/test_structs.py compares sizes and offsets.
"""

from ctypes import Structure, c_float, c_int64, c_void_p

import torch

ACTIVATIONS = ("gelu_tanh", "silu")
"""Indices are the values of the C++ enum."""

CACHE_TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Types of keys and values; indices are the values of the C++ enum."""


class LinearData(Structure):
    """A linear layer with packed weights; see `Linear` in linear.h.

    `weight` is packed in panels of float32 (`pack_panels`) or int8 (`pack_int8_panels`). `scales`
    and `shifts` are null in float32.
    """

    _fields_ = [
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("scales", c_void_p),
        ("shifts", c_void_p),
        ("num_inputs", c_int64),
        ("num_outputs", c_int64),
        ("prefetch_distance", c_int64),
    ]


class NormData(Structure):
    """A layer norm if it subtracts the mean, else an RMS norm; without a weight no norm."""

    _fields_ = [
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("size", c_int64),
        ("subtracts_mean", c_int64),
        ("epsilon", c_float),
    ]


class AttentionData(Structure):
    """A layer's attention and its paged KV cache; see `Attention` in attention.h.

    A window of 0 sees all tokens, and a softcap of 0 is none. `sinks` may be null.
    """

    _fields_ = [
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("key_dim", c_int64),
        ("value_dim", c_int64),
        ("window", c_int64),
        ("block_size", c_int64),
        ("cache_type", c_int64),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("sinks", c_void_p),
        ("prefetch_distance", c_int64),
        ("scale", c_float),
        ("softcap", c_float),
    ]


class ProjectionData(Structure):
    """Queries, keys and values of a step's rows; strides count floats."""

    _fields_ = [
        ("query", c_void_p),
        ("key", c_void_p),
        ("value", c_void_p),
        ("query_row_stride", c_int64),
        ("query_head_stride", c_int64),
        ("key_row_stride", c_int64),
        ("key_head_stride", c_int64),
        ("value_row_stride", c_int64),
        ("value_head_stride", c_int64),
    ]


class LayerData(Structure):
    """A whole decoder layer."""

    _fields_ = [
        ("attention_norm", NormData),
        ("query_norm", NormData),
        ("key_norm", NormData),
        ("mlp_norm", NormData),
        ("qkv", LinearData),
        ("output", LinearData),
        ("up", LinearData),
        ("down", LinearData),
        ("attention", AttentionData),
        ("rotary_dim", c_int64),
        ("activation", c_int64),
        ("is_gated", c_int64),
    ]


STRUCTS = (LinearData, NormData, AttentionData, ProjectionData, LayerData)
"""In the order of LAYOUTS in layouts.h."""


def address(tensor: torch.Tensor | None) -> int | None:
    """Returns the address of a tensor's data; None is a null pointer."""
    return None if tensor is None else tensor.data_ptr()
