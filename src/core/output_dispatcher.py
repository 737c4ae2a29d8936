"""`OutputDispatcher`: requests from the event loop to the engine's thread, and outputs back.

The engine hands over one update a step; each call reads its outputs from one queue. All sequences
and tokens pass here, so metrics, traces and usage accounts are fed here.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace

from src.core.adapters import current_adapter
from src.core.identity import current_caller
from src.core.observers import OUTCOMES, Meter, Observer, Outcome, SequenceStats, Tracer
from src.core.priority import current_priority
from src.engine.interface import Engine
from src.engine.request import EngineUpdate, FinishReason, Request, RequestOutput
from src.errors import ServiceError

logger = logging.getLogger(__name__)

Trim = Callable[[RequestOutput], RequestOutput]
"""Returns the part of an output that belongs to the answer, with its finish reason."""


@dataclass(slots=True, eq=False)
class _LiveSequence:
    """A sequence in the engine."""

    engine: Engine
    request: Request
    trim: Trim | None
    outputs: asyncio.Queue[RequestOutput | None]
    stats: SequenceStats
    outcome: Outcome | None = None  # set when the dispatcher ends the sequence
    context: Context = field(default_factory=copy_context)


class OutputDispatcher:
    """Carries requests to an engine, and its outputs to the queues of the calls.

    Serves one event loop at a time: that of the last call of `submit`.

    Args:
        observer: metrics; None counts nothing.
        tracer: traces; None traces nothing.
        meter: usage accounts; None leaves usage unlimited.
    """

    def __init__(
        self, observer: Observer | None, tracer: Tracer | None = None, meter: Meter | None = None
    ) -> None:
        self._observer = observer
        self._meter = meter
        self._followers = [follower for follower in (tracer, meter) if follower is not None]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._live: dict[str, _LiveSequence] = {}

    def receive(self, update: EngineUpdate) -> None:
        """Hands an update over to the event loop. Called in the engine's thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, and so are all readers
                self._loop.call_soon_threadsafe(self._dispatch, update)

    async def submit(
        self,
        engine: Engine,
        requests: list[Request],
        operation: str,
        trims: Mapping[str, Trim] | None = None,
    ) -> asyncio.Queue[RequestOutput | None]:
        """Submits one call's requests for the current caller; returns the queue of all outputs.

        The queue holds None only if `cut` or the reader's own code puts it there.

        Args:
            engine: admits all or none.
            requests: of one call.
            operation: label for metrics and traces.
            trims: by request id; each is called once for every output, in order. Tokens that a trim
                drops are not counted. A finish reason that a trim adds aborts the request in the
                engine.

        Raises:
            EngineDeadError: the engine has ended.
            OverloadedError: the queue is full.
            ServiceError: as the meter raises.
        """
        num_prompt_tokens, num_new_tokens = _max_num_tokens(requests)
        if self._meter is not None:
            await self._meter.reserve(num_prompt_tokens, num_new_tokens, len(requests))
        try:
            return self._submit(engine, requests, operation, trims or {})
        except ServiceError:
            if self._meter is not None:
                self._meter.give_up(num_prompt_tokens, len(requests))
            raise

    def _submit(
        self,
        engine: Engine,
        requests: list[Request],
        operation: str,
        trims: Mapping[str, Trim],
    ) -> asyncio.Queue[RequestOutput | None]:
        self._loop = asyncio.get_running_loop()
        outputs: asyncio.Queue[RequestOutput | None] = asyncio.Queue()
        caller, priority = current_caller.get(), current_priority.get()
        group = requests[0].request_id if requests else ""
        adapter = current_adapter.get()
        requests = [
            replace(
                request,
                tenant=caller.id,
                weight=caller.weight,
                group=group,
                priority=priority,
                adapter=adapter,
            )
            for request in requests
        ]
        engine.add_requests(requests)
        for request in requests:
            trim, stats = trims.get(request.request_id), _new_stats(request, operation)
            self._live[request.request_id] = _LiveSequence(engine, request, trim, outputs, stats)
            if self._observer is not None:
                self._observer.sequence_started()
        return outputs

    def end(self, engine: Engine, request_id: str, outcome: Outcome) -> None:
        """Aborts a sequence; it has ended when the engine says so. The first outcome counts."""
        live = self._live.get(request_id)
        if live is not None:
            live.outcome = live.outcome or outcome
            engine.abort_request(request_id)

    def cut(
        self, request_ids: Collection[str], outputs: asyncio.Queue[RequestOutput | None]
    ) -> None:
        """Ends a call's sequences at its deadline.

        Each gets a last output with the finish reason LENGTH, so its text so far is the answer. A
        call without an answer yet gets None in its queue instead.

        Args:
            request_ids: all of the call's.
            outputs: the call's queue, as returned by `submit`.
        """
        sequences = [self._live[key] for key in request_ids if key in self._live]
        has_answer = _has_answer(sequences, len(request_ids))
        for live in sequences:
            if live.outcome is not None:  # it has had its last output
                continue
            last = RequestOutput(live.request.request_id, [], FinishReason.LENGTH)
            if has_answer:
                outputs.put_nowait(self._trim(live, last))
            self.end(live.engine, live.request.request_id, Outcome.TIMEOUT)
        if not has_answer:
            outputs.put_nowait(None)

    def _dispatch(self, update: EngineUpdate) -> None:
        now = time.monotonic()
        for output in update.outputs:
            live = self._live.get(output.request_id)
            if live is not None:  # None if the sequence outlived its event loop
                trimmed = self._trim(live, output)
                live.outputs.put_nowait(trimmed)
                if output.finish_reason is not None:
                    del self._live[output.request_id]
                with _logged_faults():
                    self._observe(live, output, len(trimmed.new_token_ids), now)
        if self._observer is not None:
            with _logged_faults():
                self._observer.engine_updated(update.stats, update.step)

    def _trim(self, live: _LiveSequence, output: RequestOutput) -> RequestOutput:
        """Returns the part of an output that belongs to the answer; nothing after its end."""
        if live.outcome is not None:
            return replace(output, new_token_ids=[], logprobs=[])
        if live.trim is None:
            return output
        try:
            trimmed = live.trim(output)
        except Exception:  # the other outputs of the step must be delivered
            logger.exception("detokenization of a sequence failed")
            trimmed = replace(output, new_token_ids=[], finish_reason=FinishReason.ERROR)
        if trimmed.finish_reason is not output.finish_reason:
            assert trimmed.finish_reason is not None
            self.end(live.engine, output.request_id, OUTCOMES[trimmed.finish_reason])
        return trimmed

    def _observe(
        self, live: _LiveSequence, output: RequestOutput, num_tokens: int, now: float
    ) -> None:
        """Records an output of which `num_tokens` tokens belong to the answer."""
        if output.admission is not None and live.stats.admitted_at is None:
            self._observe_admission(live.stats, output, now)
        if num_tokens:
            self._observe_tokens(live.stats, num_tokens, now)
        if output.finish_reason is not None:
            live.stats.outcome = live.outcome or OUTCOMES[output.finish_reason]
            self._observe_end(live, now)

    def _observe_admission(self, stats: SequenceStats, output: RequestOutput, now: float) -> None:
        """Records an admission, which comes with the first token, the embedding or the end."""
        assert output.admission is not None
        stats.admitted_at = stats.arrived_at + output.admission.queue_seconds
        stats.num_cached_tokens = output.admission.num_cached_tokens
        if self._observer is not None:
            self._observer.sequence_admitted(stats)
            if output.new_token_ids or output.finish_reason is FinishReason.EMBEDDED:
                self._observer.prompt_computed(stats, now - stats.admitted_at)

    def _observe_tokens(self, stats: SequenceStats, count: int, now: float) -> None:
        """Records new tokens; the first comes alone, later ones of a step share its time."""
        is_first, since = stats.last_token_at is None, stats.last_token_at or now
        stats.num_tokens += count
        stats.last_token_at = now
        stats.first_token_at = stats.first_token_at or now
        if self._observer is None:
            return
        if is_first:
            self._observer.first_token(stats)
        else:
            self._observer.next_tokens(count, (now - since) / count)

    def _observe_end(self, live: _LiveSequence, now: float) -> None:
        live.stats.ended_at = now
        if self._observer is not None:
            with _logged_faults():
                self._observer.sequence_ended(live.stats)
        for follower in self._followers:
            with _logged_faults():
                live.context.run(follower.sequence_ended, live.stats)


@contextmanager
def _logged_faults() -> Iterator[None]:
    """Logs what observers raise: each output must be delivered, and each observer called."""
    try:
        yield
    except Exception:
        logger.exception("recording of a sequence failed")


def _new_stats(request: Request, operation: str) -> SequenceStats:
    return SequenceStats(
        request_id=request.request_id,
        operation=operation,
        params=request.sampling_params,
        num_prompt_tokens=len(request.prompt_token_ids),
        arrived_at=request.arrived_at,
    )


def _has_answer(sequences: list[_LiveSequence], num_requests: int) -> bool:
    """Returns True if a call has a token, and the log-probabilities of all prompts that need them.

    Args:
        sequences: the call's live ones.
        num_requests: all of the call's.
    """
    if any(
        live.request.needs_every_position and not live.stats.num_tokens and live.outcome is None
        for live in sequences
    ):
        return False
    return len(sequences) < num_requests or any(live.stats.num_tokens for live in sequences)


def _max_num_tokens(requests: list[Request]) -> tuple[int, int]:
    """Returns the tokens of all distinct prompts, and the largest number of new tokens."""
    prompts = {id(request.prompt_token_ids): request.prompt_token_ids for request in requests}
    num_new_tokens = sum(
        0 if request.embeds else request.sampling_params.max_tokens for request in requests
    )
    return sum(map(len, prompts.values())), num_new_tokens
