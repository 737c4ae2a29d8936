"""The measured systems; each opens as a function that runs jobs."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from benchmarks.servers import serve_ours, serve_transformers
from benchmarks.worker import Run, start_worker
from src.engine.model.runtime_env import torch_environment

UNAIDED = {"num_speculative_tokens": 0}
"""Turns prompt lookup off: random models repeat themselves more than trained ones, which would
flatter us. `benchmarks.parts guesses` measures it.
"""

System = Callable[[str], AbstractContextManager[Run]]
"""Starts with a model's folder or name, runs jobs while its context lasts, and ends."""


@contextmanager
def clients(url: str, protocol: str = "generate") -> Iterator[Run]:
    """Runs clients over HTTP in a process of their own."""
    with start_worker("benchmarks.load", "--url", url, "--protocol", protocol) as run:
        yield run


@contextmanager
def openai_clients(url: str, protocol: str) -> Iterator[Run]:
    """Runs OpenAI's client in a process of its own."""
    with start_worker("benchmarks.openai_load", "--url", url, "--protocol", protocol) as run:
        yield run


@contextmanager
def ours(model: str, **settings: object) -> Iterator[Run]:
    """Opens our service with these settings, over HTTP."""
    with serve_ours(model, **UNAIDED | settings) as server, clients(server.url) as run:
        yield run


@contextmanager
def reference(model: str) -> Iterator[Run]:
    """Opens our service on HuggingFace's `generate`, one request at a time, over HTTP."""
    with ours(model, engine="reference") as run:
        yield run


@contextmanager
def ours_offline(model: str, **config: object) -> Iterator[Run]:
    """Opens our engine with this `EngineConfig`, without HTTP."""
    options = ("ours", model, "--config", json.dumps(UNAIDED | config))
    # The worker has imported torch by then, so the environment is set here.
    environment = torch_environment(config.get("kernels", "auto"))  # type: ignore[arg-type]
    with start_worker("benchmarks.offline", *options, **environment) as run:
        yield run


@contextmanager
def static_batches(model: str) -> Iterator[Run]:
    """Opens HuggingFace's `generate` on left-padded batches, without HTTP."""
    with start_worker("benchmarks.offline", "static", model) as run:
        yield run


@contextmanager
def transformers_serve(model: str) -> Iterator[Run]:
    """Opens `transformers serve --continuous-batching`, over HTTP."""
    with serve_transformers(model) as server, clients(server.url, "completions") as run:
        yield run


SYSTEMS: dict[str, System] = {
    "continuous": ours,
    "fp16": partial(ours, quantization="fp16"),
    "int8": partial(ours, quantization="int8"),
    "continuous-offline": ours_offline,
    "reference": reference,
    "reference-offline": partial(ours_offline, engine="reference"),
    "hf-static-offline": static_batches,
    "transformers-serve": transformers_serve,
}
