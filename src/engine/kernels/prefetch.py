"""Prefetch distance of weights, measured when the kernels are loaded.

Hardware prefetchers differ: some follow a stream over the end of a 4 KiB page, others stop there,
and then software prefetching is faster. No flag of the processor tells them apart.
"""

import functools
import logging
import statistics
import time

import torch

from src.engine.kernels.bindings import CpuKernels
from src.engine.kernels.structs import LinearData

logger = logging.getLogger(__name__)

DISTANCES = (0, 256)
"""In floats: memory delivers about 1 KiB while a few hundred of them are multiplied."""

NUM_INPUTS, NUM_OUTPUTS, NUM_ROWS = 1024, 8192, 8
"""A layer larger than a core's caches, with as many rows as few sequences have."""

REPEATS = 7
MIN_SPEEDUP = 1.03
"""Smaller differences are noise."""


@functools.cache
@torch.inference_mode()
def tune_prefetch(kernels: CpuKernels) -> None:
    """Sets the prefetch distance of layers that are created from now on.

    Takes a tenth of a second, once in a process.
    """
    rows = torch.ones(NUM_ROWS, NUM_INPUTS)
    weight = torch.ones(NUM_INPUTS * NUM_OUTPUTS)  # the same in every layout
    layer = LinearData(weight=weight.data_ptr(), num_inputs=NUM_INPUTS, num_outputs=NUM_OUTPUTS)
    times: dict[int, list[float]] = {distance: [] for distance in DISTANCES}
    for _ in range(REPEATS):
        for distance, samples in times.items():
            layer.prefetch_distance = distance
            started = time.perf_counter()
            kernels.linear(layer, rows)
            samples.append(time.perf_counter() - started)
    without, with_prefetch = (statistics.median(times[distance]) for distance in DISTANCES)
    kernels.prefetch_distance = DISTANCES[1] if without > MIN_SPEEDUP * with_prefetch else 0
    logger.debug(
        "prefetch distance of weights: %d floats (%.2f ms without prefetching, %.2f ms with it)",
        kernels.prefetch_distance,
        1000 * without,
        1000 * with_prefetch,
    )
