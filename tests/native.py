"""The variants of our own kernels that this machine has built and can run."""

from src.engine.native.build import VARIANTS, library_path
from src.engine.native.library import FLAGS, Library, processor_flags

LIBRARIES = [
    Library(variant)
    for variant in VARIANTS
    if FLAGS[variant] <= processor_flags() and library_path(variant).exists()
]
"""None where there is no compiler; the gate sees to it that there is one."""
