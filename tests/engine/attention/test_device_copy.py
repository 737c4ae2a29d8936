"""Arrays of several shapes and types go to a device in one piece, and come out the same."""

import numpy as np
import torch

from src.engine.attention.device_copy import copy_to_device, pack, unpack

ARRAYS = [
    np.arange(5, dtype=np.int64) << 40,
    np.arange(6, dtype=np.int32).reshape(2, 3),
    np.array([-1], np.int32),
    np.zeros((0,), np.int64),
    np.arange(3, dtype=np.int64),
]


def check(tensors: list[torch.Tensor]) -> None:
    for tensor, array in zip(tensors, ARRAYS, strict=True):
        expected = torch.from_numpy(array)
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor.cpu(), expected)
        assert tensor.is_contiguous()


def test_packed_arrays_are_unpacked_as_they_were():
    check(unpack(pack(ARRAYS, pin_memory=False), ARRAYS))


def test_a_cpu_gets_no_copy():
    tensors = copy_to_device(ARRAYS, torch.device("cpu"))
    check(tensors)
    assert tensors[0].data_ptr() == ARRAYS[0].ctypes.data
