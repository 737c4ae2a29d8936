"""Reads GGUF files: metadata and the table of tensors at once, tensors when they are needed.

The format is that of ggml's docs/gguf.md, versions 2 and 3. Own code instead of the reader of the
package `gguf`, which takes seconds for the lists of a vocabulary.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as TensorFormat
from gguf import GGUFValueType as ValueType

from src.engine.model.gguf.names import find_part_names
from src.engine.model.source import REMEDY, one_line
from src.errors import ModelLoadError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32  # bytes

SCALARS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""Formats of `struct`."""

FLOATS = {
    TensorFormat.F32: torch.float32,
    TensorFormat.F16: torch.float16,
    TensorFormat.BF16: torch.bfloat16,
}


class _InvalidFileError(Exception):
    """The file is broken or of an unsupported kind; the message completes "FILE ..."."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file.

    Args:
        data: the file's bytes.
        start: of the tensor's bytes in them.
        shape: in PyTorch's order, rows first.
        format: of its values or blocks of values.
    """

    data: mmap.mmap
    start: int
    shape: tuple[int, ...]
    format: TensorFormat

    @property
    def num_bytes(self) -> int:
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[self.format]
        return prod(self.shape) // block_size * block_bytes

    def read(self) -> torch.Tensor:
        """Returns the values: floats as they are, without a copy, and blocks as float32."""
        dtype = FLOATS.get(self.format)
        if dtype is not None:
            flat = torch.frombuffer(
                self.data, dtype=dtype, count=prod(self.shape), offset=self.start
            )
            return flat.view(self.shape)
        blocks = np.frombuffer(self.data, np.uint8, self.num_bytes, self.start)
        rows = blocks.reshape(*self.shape[:-1], -1)
        return torch.from_numpy(gguf.dequantize(rows, self.format))


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Metadata and tensors of a model, of all its files together.

    Args:
        path: of the first file.
        metadata: values by key.
        tensors: by name.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_gguf(path: Path) -> GgufFile:
    """Reads the headers of all files of a model.

    Raises:
        ModelLoadError: names the file, what is wrong with it, and the remedy.
    """
    paths = [path.with_name(name) for name in find_part_names(path.name)]
    parts = [_read_part(one) for one in paths]
    metadata, tensors = parts[0].metadata, {}
    for part in parts:
        tensors.update(part.tensors)
    num_files = metadata.get("split.count", 1)
    if num_files not in (0, len(paths)):
        raise ModelLoadError(
            f"{paths[0]} is one of {num_files} files of a split model, and its name does not end in"
            f" -00001-of-{num_files:05}.gguf. Give all files the names that they were published"
            f" with, in one folder. {REMEDY}"
        )
    return GgufFile(paths[0], metadata, tensors)


def _read_part(path: Path) -> GgufFile:
    try:
        with path.open("rb") as file:
            # Private and writable, as torch warns of memory that cannot be written.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return GgufFile(path, *_Header(data).read())
    except _InvalidFileError as error:
        raise ModelLoadError(f"{path} {error} {REMEDY}") from error
    except (struct.error, UnicodeDecodeError, ValueError, OSError) as error:
        raise ModelLoadError(
            f"{path} cannot be read as a GGUF file ({one_line(error)}): it is broken or cut off."
            f" Fetch it again. {REMEDY}"
        ) from error


class _Header:
    """Cursor over the start of a file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._position = 0

    def read(self) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
        """Returns metadata and tensors."""
        self._check_version()
        num_tensors, num_entries = self._number("Q"), self._number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(num_entries):
            key = self._string()
            metadata[key] = self._value(self._number("I"))
        table = [self._entry() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        start = -(-self._position // alignment) * alignment
        return metadata, dict(self._tensors(table, start))

    def _check_version(self) -> None:
        magic, version = self._take(len(MAGIC)), self._number("I")
        if magic != MAGIC:
            raise _InvalidFileError(
                "is no GGUF file: it does not start with the letters GGUF. A page of a web server"
                " or a pointer of Git LFS may have been saved under its name; fetch it again."
            )
        if version not in VERSIONS:
            kind = "in big-endian order" if version & 0xFFFF == 0 else f"of version {version}"
            raise _InvalidFileError(
                f"is a GGUF file {kind}; versions {VERSIONS[0]} and {VERSIONS[1]} in little-endian"
                " order are read. Fetch the model in a current file."
            )

    def _tensors(
        self, table: list[tuple[str, tuple[int, ...], int, int]], start: int
    ) -> Iterator[tuple[str, StoredTensor]]:
        for name, shape, number, offset in table:
            tensor = StoredTensor(self._data, start + offset, shape, _find_format(number, name))
            block_size = gguf.GGML_QUANT_SIZES[tensor.format][0]
            if not shape or shape[-1] % block_size:
                raise _InvalidFileError(
                    f"has a tensor {name} of the shape {list(shape)}, which"
                    f" {tensor.format.name} does not allow: it is broken. Fetch it again."
                )
            if tensor.start + tensor.num_bytes > len(self._data):
                raise _InvalidFileError(
                    f"is cut off: its tensor {name} ends at byte {tensor.start + tensor.num_bytes},"
                    f" and the file at {len(self._data)}. Fetch it again."
                )
            yield name, tensor

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        """Returns name, shape, number of the format and offset of a tensor."""
        name, num_dimensions = self._string(), self._number("I")
        sizes = self._numbers("Q", num_dimensions)
        return name, sizes[::-1], self._number("I"), self._number("Q")

    def _value(self, number: int) -> Any:
        kind = ValueType(number)
        if kind is ValueType.STRING:
            return self._string()
        if kind is not ValueType.ARRAY:
            return self._number(SCALARS[kind])
        element, count = ValueType(self._number("I")), self._number("Q")
        if element is ValueType.STRING:
            return [self._string() for _ in range(count)]
        return list(self._numbers(SCALARS[element], count))

    def _number(self, code: str) -> Any:
        return self._numbers(code, 1)[0]

    def _numbers(self, code: str, count: int) -> tuple[Any, ...]:
        num_bytes = count * struct.calcsize("<" + code)
        if num_bytes > len(self._data) - self._position:  # before `struct` allocates that much
            raise _InvalidFileError("is cut off within its header. Fetch it again.")
        values = struct.unpack_from(f"<{count}{code}", self._data, self._position)
        self._position += num_bytes
        return values

    def _string(self) -> str:
        return self._take(self._number("Q")).decode()

    def _take(self, num_bytes: int) -> bytes:
        if num_bytes > len(self._data) - self._position:
            raise _InvalidFileError("is cut off within its header. Fetch it again.")
        taken = self._data[self._position : self._position + num_bytes]
        self._position += num_bytes
        return taken


def _find_format(number: int, name: str) -> TensorFormat:
    """Returns a tensor's format if its values can be read."""
    try:
        tensor_format, kind = TensorFormat(number), TensorFormat(number).name
    except ValueError:
        tensor_format, kind = None, f"number {number}"
    if tensor_format is not None and _can_read(tensor_format):
        return tensor_format
    raise _InvalidFileError(
        f"has a tensor {name} in the format {kind}, which cannot be read here. Fetch the model in"
        " another quantization, such as Q8_0, Q4_K_M or F16."
    )


@cache
def _can_read(tensor_format: TensorFormat) -> bool:
    if tensor_format in FLOATS:
        return True
    block_bytes = gguf.GGML_QUANT_SIZES[tensor_format][1]
    try:
        gguf.dequantize(np.zeros((1, block_bytes), np.uint8), tensor_format)
    except NotImplementedError:
        return False
    return True
