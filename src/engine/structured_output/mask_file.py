"""The file in memory in which a grammar process writes token masks and the engine reads them.

The process is not trusted: it may write anything, and at any time. So the engine does not map the
file, where a page that is missing would raise SIGBUS; a read is short at worst, and is a copy that
the process cannot change any more.
"""

import fcntl
import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

MAX_MASKS = 1024
"""Masks of one answer. The file takes memory for those that were written."""


def create_mask_file(num_bytes: int) -> int:
    """Returns the descriptor of a file for `MAX_MASKS` masks, which cannot grow where Linux is.

    Args:
        num_bytes: of a mask.
    """
    try:
        descriptor = os.memfd_create("masks", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):  # macOS, old sandboxes
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
            os.ftruncate(descriptor, MAX_MASKS * num_bytes)
            return descriptor
    os.ftruncate(descriptor, MAX_MASKS * num_bytes)
    seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def map_masks(descriptor: int, num_bytes: int) -> NDArray[np.uint8]:
    """Returns the masks for the process to write, (MAX_MASKS, num_bytes); closes the descriptor."""
    mapping = mmap.mmap(descriptor, MAX_MASKS * num_bytes)
    os.close(descriptor)
    return np.frombuffer(mapping, dtype=np.uint8).reshape(MAX_MASKS, num_bytes)


def read_masks(descriptor: int, num_masks: int, num_bytes: int) -> NDArray[np.uint8]:
    """Returns a copy of the first masks, (num_masks, num_bytes).

    Raises:
        ValueError: the file is shorter.
    """
    content = os.pread(descriptor, num_masks * num_bytes, 0)
    return np.frombuffer(content, dtype=np.uint8).reshape(num_masks, num_bytes)
