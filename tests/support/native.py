"""The variants of our own kernels that this machine has built and can run."""

from src.engine.kernels.bindings import CpuKernels
from src.engine.kernels.build import usable_variants

LIBRARIES = [CpuKernels(variant) for variant in usable_variants()]
"""None where there is no compiler; the gate sees to it that there is one."""
