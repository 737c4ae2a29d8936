"""Shared file in memory (memfd): a grammar process writes token masks, the engine reads them.

The process is not trusted: it may write anything at any time. So the engine reads the file and does
not map it: a missing page of a mapping would raise SIGBUS. A read is short at worst, and the
process cannot change the copy.
"""

import fcntl
import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

MAX_MASKS = 1024
"""Masks in one answer. Only rows that were written take memory."""


def create_mask_file(num_bytes: int) -> int:
    """Returns the descriptor of a file for `MAX_MASKS` masks; on Linux its size is sealed.

    Args:
        num_bytes: size of a mask.
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
    """Maps the file for writing, (MAX_MASKS, num_bytes), and closes the descriptor."""
    mapping = mmap.mmap(descriptor, MAX_MASKS * num_bytes)
    os.close(descriptor)
    return np.frombuffer(mapping, dtype=np.uint8).reshape(MAX_MASKS, num_bytes)


def read_masks(descriptor: int, num_masks: int, num_bytes: int) -> NDArray[np.uint8]:
    """Returns a copy of the first masks, (num_masks, num_bytes).

    Raises:
        ValueError: the file is too short.
    """
    content = os.pread(descriptor, num_masks * num_bytes, 0)
    return np.frombuffer(content, dtype=np.uint8).reshape(num_masks, num_bytes)
