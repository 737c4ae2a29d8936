"""Access to the project's engine for the lessons, without HTTP and without a thread."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from src.engine.config import EngineConfig
from src.engine.core import EngineCore
from src.engine.factory import create_core
from src.engine.model.loader import load_model
from src.engine.request import FinishReason, Request, StepStats
from src.engine.sampling_params import SamplingParams


@dataclass
class Trace:
    """Record of one request.

    Args:
        sent: time at which the engine got the request, in seconds.
        token_ids: new tokens.
        times: time of each new token.
        finish_reason: reason for its end.
        num_cached_tokens: number of prompt tokens from the prefix cache.
    """

    sent: float
    token_ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    num_cached_tokens: int = 0

    @property
    def time_to_first_token(self) -> float:
        return self.times[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Times between two tokens."""
        pairs = zip(self.times, self.times[1:], strict=False)
        return [later - earlier for earlier, later in pairs]


def create_engine(**settings: object) -> EngineCore:
    """Loads storyteller into an engine; settings are fields of `EngineConfig`.

    Prompt lookup is off unless the settings say otherwise, so that steps can be counted.
    """
    config = EngineConfig("storyteller", num_speculative_tokens=0)
    config = replace(config, **settings)  # type: ignore[arg-type]
    return create_core(load_model(config), config)


def create_request(
    name: object, token_ids: list[int], max_tokens: int, **params: object
) -> Request:
    """Creates a greedy request, which ends at `max_tokens` tokens unless `params` say otherwise."""
    chosen = {"temperature": 0, "ignore_eos": True, **params}
    return Request(str(name), token_ids, SamplingParams(max_tokens=max_tokens, **chosen))  # type: ignore[arg-type]


def serve(
    engine: EngineCore, requests: Sequence[Request], starts: Sequence[int] = ()
) -> tuple[list[Trace], list[StepStats]]:
    """Runs requests to their ends.

    Args:
        engine: without other work.
        requests: with names of their own.
        starts: numbers of the steps before which the requests arrive; none: all at once.

    Returns:
        A record of each request, and the counts of each step.
    """
    waiting = sorted(zip(starts or [0] * len(requests), range(len(requests)), strict=True))
    traces: dict[str, Trace] = {}
    steps: list[StepStats] = []
    while waiting or engine.has_work:
        while waiting and (waiting[0][0] <= len(steps) or not engine.has_work):
            request = requests[waiting.pop(0)[1]]
            traces[request.request_id] = Trace(time.perf_counter())
            engine.add(request)
        update = engine.step()
        now = time.perf_counter()
        for output in update.outputs:
            trace = traces[output.request_id]
            trace.token_ids += output.new_token_ids
            trace.times += [now] * len(output.new_token_ids)
            trace.finish_reason = output.finish_reason
            if output.admission is not None:
                trace.num_cached_tokens = output.admission.num_cached_tokens
        if update.step is not None:
            steps.append(update.step)
    return [traces[request.request_id] for request in requests], steps
