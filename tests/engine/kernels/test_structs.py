"""The ctypes structs have the sizes and offsets of the C++ structs."""

from ctypes import sizeof

import pytest

from src.engine.kernels.structs import STRUCTS
from tests.support.native import each_variant


@each_variant
@pytest.mark.parametrize("index", range(len(STRUCTS)), ids=lambda index: STRUCTS[index].__name__)
def test_size_and_field_offsets_are_those_of_the_cpp_struct(kernels, index):
    struct = STRUCTS[index]
    offsets = [getattr(struct, name).offset for name, _ in struct._fields_]
    assert kernels.struct_layout(index) == [sizeof(struct), *offsets]
