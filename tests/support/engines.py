"""Helpers for tests of engines: outputs, started engines, HuggingFace as the oracle."""

import queue
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from src.engine.config import EngineConfig
from src.engine.core import EngineCore
from src.engine.factory import create_core
from src.engine.interface import Engine
from src.engine.logprobs import PositionLogprobs
from src.engine.model.loader import LoadedModel, load_model
from src.engine.request import (
    Admission,
    EngineUpdate,
    FinishReason,
    Request,
    RequestOutput,
    UpdateCallback,
)
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.sequence import Sequence
from src.engine.scheduling.step import ScheduledSequence
from tests.support.scheduling import check_blocks

PROMPT = [70, 80, 90, 100, 110]

TOLERANCE = 2e-5
"""Largest difference of log-probabilities in float32.

Only the order of additions differs. With two layers it moves logits of size 1 by less than 5e-6.
"""


@dataclass
class Answer:
    """All outputs of one request together."""

    token_ids: list[int] = field(default_factory=list)
    reason: FinishReason | None = None
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    prompt_logprobs: list[PositionLogprobs] = field(default_factory=list)
    admission: Admission | None = None
    embedding: list[float] = field(default_factory=list)

    def add(self, output: RequestOutput) -> None:
        assert self.reason is None, "an output after the last one"
        assert output.admission is None or self.admission is None
        self.token_ids += output.new_token_ids
        self.reason = output.finish_reason
        self.logprobs += output.logprobs
        self.prompt_logprobs += output.prompt_logprobs
        self.admission = self.admission or output.admission
        self.embedding = self.embedding or output.embedding


class Outputs:
    """Outputs of one request in the order of their arrival."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[RequestOutput] = queue.SimpleQueue()

    def put(self, output: RequestOutput) -> None:
        self._queue.put(output)

    def next(self) -> RequestOutput:
        return self._queue.get(timeout=60)

    @property
    def is_empty(self) -> bool:
        return self._queue.empty()

    def answer(self) -> Answer:
        answer = Answer()
        while answer.reason is None:
            answer.add(self.next())
        return answer

    def all(self) -> tuple[list[int], FinishReason]:
        answer = self.answer()
        assert answer.reason is not None
        return answer.token_ids, answer.reason


class Harness:
    """A running engine, and its outputs sorted by request.

    Args:
        start: starts an engine that hands its updates to the function it is given.
        on_output: sees each output first, in the engine's thread.
    """

    def __init__(self, start: Callable[[UpdateCallback], Engine]) -> None:
        self._outputs: dict[str, Outputs] = {}
        self.on_output: Callable[[RequestOutput], None] = lambda _: None
        self.engine = start(self._receive)

    def _receive(self, update: EngineUpdate) -> None:
        for output in update.outputs:
            self.on_output(output)
            self._outputs[output.request_id].put(output)

    def add(self, request: Request) -> Outputs:
        return self.add_all([request])[0]

    def add_all(self, requests: list[Request]) -> list[Outputs]:
        found = [Outputs() for _ in requests]
        self._outputs |= zip([one.request_id for one in requests], found, strict=True)
        self.engine.add_requests(requests)
        return found

    def run(self, request: Request) -> tuple[list[int], FinishReason]:
        return self.add(request).all()

    def close(self) -> None:
        """After everything there is no request left over."""
        self.engine.shutdown()
        assert self.engine.admission.num_live == 0


class SteppedCore:
    """A core that a test steps by hand. After every step all blocks are where they belong.

    Args:
        core: no step of it may raise, though it would get over that, unless `may_fail`.
        answers: by request.
        followers: requests that have waited for a prefix that another one computed.
        num_mixed_steps: steps that computed a piece of a prompt beside another sequence.
        num_preempted: sequences that gave their place to another tenant's.
    """

    def __init__(self, core: EngineCore, *, may_fail: bool = False) -> None:
        self.core = core
        self.answers: dict[str, Answer] = defaultdict(Answer)
        self.followers: set[str] = set()
        self.num_mixed_steps = 0
        self.num_preempted = 0
        if not may_fail:
            assert hasattr(core, "_bisect")
            core._bisect = core._scheduler.fail = self._raise_again

    @staticmethod
    def _raise_again(_: list[ScheduledSequence] | Sequence) -> NoReturn:
        raise  # noqa: PLE0704 - the core calls it where it handles what the step raised

    @property
    def leaders(self) -> list[str]:
        """Ids of requests with a partly computed prefix that others wait for."""
        scheduler = self.core._scheduler
        computing = scheduler._cache._computing
        return [
            computing[follower.awaited].request.request_id
            for follower in scheduler._waiting
            if follower.awaited in computing and computing[follower.awaited].num_computed_tokens > 0
        ]

    def add(self, *requests: Request) -> None:
        for request in requests:
            self._receive(self.core.add(request))

    def abort(self, request_id: str) -> None:
        self._receive(self.core.abort(request_id))

    def step(self) -> EngineUpdate:
        self._receive(update := self.core.step())
        if update.step is not None:  # None if all waiting requests have expired
            self.num_preempted += update.step.num_preempted
            self.num_mixed_steps += 1 < update.step.num_sequences < update.step.num_tokens
        waiting = [one for one in self.core._scheduler._waiting if one.awaited is not None]
        self.followers.update(one.request.request_id for one in waiting)
        return update

    def finish(self) -> dict[str, Answer]:
        while self.core.has_work:
            self.step()
        return self.answers

    def _receive(self, update: EngineUpdate) -> None:
        for output in update.outputs:
            self.answers[output.request_id].add(output)
        scheduler = self.core._scheduler
        assert len(scheduler._running) == update.stats.num_running
        check_blocks(scheduler._cache._pool, scheduler._running)


def create_stepped(folder: Path, *, may_fail: bool = False, **settings: int) -> SteppedCore:
    """Returns a small core on a model's folder, to be stepped by hand."""
    config = EngineConfig(str(folder), max_num_seqs=4, kv_cache_gb=0.01, **settings)
    return SteppedCore(create_core(load_model(config), config), may_fail=may_fail)


def create_request(request_id: str = "a", **params: object) -> Request:
    return Request(request_id, PROMPT, SamplingParams(**({"max_tokens": 20} | params)))


def oracle(loaded: LoadedModel, max_tokens: int = 20, **options: object) -> list[int]:
    """Returns the new tokens of HuggingFace's `generate` for the same prompt."""
    prompt = torch.tensor([PROMPT])
    options = {"max_new_tokens": max_tokens, "pad_token_id": 0, "eos_token_id": 0} | options
    output = loaded.model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    return output[0, len(PROMPT) :].tolist()


def assert_same_logprobs(found: list[PositionLogprobs], expected: list[PositionLogprobs]) -> None:
    """The same tokens, with the same log-probabilities but for rounding."""
    for ours, other in zip(found, expected, strict=True):
        tokens, others = (ours.chosen, *ours.top), (other.chosen, *other.top)
        assert [one.token_id for one in tokens] == [one.token_id for one in others]
        values = [one.logprob for one in others]
        assert [one.logprob for one in tokens] == pytest.approx(values, abs=TOLERANCE)
