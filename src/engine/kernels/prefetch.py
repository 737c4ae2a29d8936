"""Whether to ask for weights before they are wanted: found out by trying, as the model is loaded.

Some processors fetch from memory what is read in order before it is asked for; others stop at the
end of each page of 4 KiB, and wait. There is no telling from outside.
"""

import functools
import logging
import statistics
import time

import torch

from src.engine.cpu_layers.native_linear import NativeLinear
from src.engine.kernels.bindings import CpuKernels

logger = logging.getLogger(__name__)

CHOICES = (0, 256)
"""Floats: a kibibyte is what comes while a few hundred of them are multiplied."""

NUM_INPUTS, NUM_OUTPUTS, NUM_ROWS = 1024, 8192, 8
"""Of a layer that is larger than a core's caches, and as many rows as few sequences have."""

REPEATS = 7
GAIN = 1.03
"""So much faster it must be, as times differ a little by chance."""


@functools.cache
@torch.inference_mode()
def tune(library: CpuKernels) -> None:
    """Sets how far ahead layers that are made from now on fetch their weights.

    Takes a tenth of a second, once in a process.
    """
    rows, weight = torch.ones(NUM_ROWS, NUM_INPUTS), torch.ones(NUM_OUTPUTS, NUM_INPUTS)
    layer = NativeLinear(weight, None, library)
    times: dict[int, list[float]] = {ahead: [] for ahead in CHOICES}
    for _ in range(REPEATS):
        for ahead, found in times.items():
            layer.data.ahead = ahead
            started = time.perf_counter()
            layer(rows)
            found.append(time.perf_counter() - started)
    without, with_it = (statistics.median(times[ahead]) for ahead in CHOICES)
    library.ahead = CHOICES[1] if without > GAIN * with_it else 0
    logger.debug(
        "weights are fetched %d floats ahead: %.2f ms without, %.2f ms with it",
        *(library.ahead, 1000 * without, 1000 * with_it),
    )
