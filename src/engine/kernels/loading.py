"""Selection of the kernels for this processor."""

import functools
import logging

from src.engine.kernels.bindings import CpuKernels
from src.engine.kernels.build import usable_variants
from src.engine.kernels.prefetch import tune_prefetch

logger = logging.getLogger(__name__)


@functools.cache
def load_kernels() -> CpuKernels | None:
    """Loads the best variant that was built and that this processor can run, and tunes it.

    Returns None if there is no such variant. One object serves the whole process.
    """
    for variant in usable_variants():
        try:
            kernels = CpuKernels(variant)
        except OSError as error:
            logger.warning("the kernels for %s cannot be loaded: %s", variant, error)
        else:
            tune_prefetch(kernels)
            return kernels
    return None
