"""Lesson one: serve a model with HuggingFace's own `generate`, one request at a time.

It is the simplest engine that is correct, and so the oracle for faster ones. One thread owns the
model and takes requests from an inbox in order; tokens leave as they are made. It is slow under
load for one reason: while one request runs, all others wait.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from src.engine.admission import AdmissionController
from src.engine.isolation import is_containable
from src.engine.logprobs import PositionLogprobs
from src.engine.model.hidden_states import find_decoder
from src.engine.model.loader import LoadedModel
from src.engine.reference.hf_sampling import (
    GrammarCriteria,
    LogitsRecorder,
    generation_config,
    logits_processors,
)
from src.engine.request import (
    Admission,
    EngineStats,
    EngineUpdate,
    FinishReason,
    Request,
    RequestOutput,
)
from src.engine.sampling.logprobs import find_logprobs

logger = logging.getLogger(__name__)

JOIN_SECONDS = 10
"""A token that takes longer hangs; the end of the process does not wait for it."""


@dataclass(slots=True, eq=False)
class _Job:
    """A request on its way through the engine."""

    request: Request
    aborted: threading.Event = field(default_factory=threading.Event)
    admission: Admission | None = None  # until it left with the first token


class ReferenceEngine:
    """Runs requests one after the other, each with `model.generate`.

    Args:
        loaded: what to run.
        admission: admits requests and publishes their outputs.
        max_queue_seconds: how long a request waits for its turn at most; of those that came
            together the first.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        admission: AdmissionController,
        max_queue_seconds: float = float("inf"),
    ) -> None:
        self.admission = admission
        self._loaded = loaded
        self._max_queue_seconds = max_queue_seconds
        self._changed = threading.Condition()  # guards the next three
        self._waiting: deque[_Job] = deque()
        self._running: _Job | None = None
        self._group = ""  # of the last job that had its turn
        self._stops = False
        self._step_started: float | None = None
        self._thread = threading.Thread(target=self._run, name="reference-engine", daemon=True)
        self._thread.start()

    @property
    def seconds_in_step(self) -> float:
        """The heartbeat: how long the current token has been taking; 0 without work."""
        started = self._step_started
        return 0.0 if started is None else time.monotonic() - started

    def add_requests(self, requests: list[Request]) -> None:
        """Queues requests, all or none. The last output of each carries a finish reason.

        Raises:
            EngineDeadError: the engine takes no requests any more.
            OverloadedError: too many wait already.
        """
        self.admission.admit(requests)
        with self._changed:
            self._waiting.extend(_Job(request) for request in requests)
            self._changed.notify()

    def abort_request(self, request_id: str) -> None:
        """Ends a request, a running one within a token; one that is not there is no matter."""
        with self._changed:
            if self._running is not None and self._running.request.request_id == request_id:
                self._running.aborted.set()
        self._drop(lambda job: job.request.request_id == request_id, FinishReason.ABORT)

    def shutdown(self) -> None:
        """Aborts all requests and waits for the thread to end. May be called twice."""
        self.admission.close()
        with self._changed:
            self._stops = True
            if self._running is not None:
                self._running.aborted.set()
            self._changed.notify()
        self._thread.join(JOIN_SECONDS)
        if self._thread.is_alive():
            logger.error("the engine's thread does not end: the model hangs")

    def _run(self) -> None:
        reason = FinishReason.ERROR
        try:
            while (job := self._next()) is not None:
                output = self._serve(job)
                self._running = None
                self._publish(output)
            reason = FinishReason.ABORT
        except BaseException:
            logger.critical("the engine's thread has died", exc_info=True)
        finally:
            self.admission.end_all(reason)

    def _next(self) -> _Job | None:
        """Waits for the next job; None: it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._stops or self._waiting)
            self._running = None if self._stops else self._waiting.popleft()
            return self._running

    def _is_late(self, job: _Job) -> bool:
        if job.request.group and job.request.group == self._group:
            return False
        return time.monotonic() - job.request.arrived_at > self._max_queue_seconds

    def _drop(self, is_meant: Callable[[_Job], bool], reason: FinishReason) -> None:
        """Ends jobs that wait."""
        with self._changed:
            dropped = [job for job in self._waiting if is_meant(job)]
            for job in dropped:
                self._waiting.remove(job)
        for job in dropped:
            self._publish(RequestOutput(job.request.request_id, [], reason))

    def _serve(self, job: _Job) -> RequestOutput:
        """Returns the request's last output."""
        request = job.request
        if self._is_late(job):
            return RequestOutput(request.request_id, [], FinishReason.EXPIRED)
        self._group = request.group
        self._step_started = time.monotonic()
        job.admission = Admission(self._step_started - request.arrived_at)
        reason, embedding = FinishReason.EMBEDDED, list[float]()
        try:
            if request.embeds:
                embedding = self._embed(request)
            else:
                reason = self._generate(job)
        except BaseException as error:
            if not is_containable(error):
                raise
            logger.exception("request failed", extra={"request": request.request_id})
            reason = FinishReason.ERROR
        finally:
            self._step_started = None
        return RequestOutput(
            request.request_id, [], reason, admission=job.admission, embedding=embedding
        )

    @torch.inference_mode()
    def _embed(self, request: Request) -> list[float]:
        prompt = torch.tensor([request.prompt_token_ids], device=self._loaded.model.device)
        decoder = find_decoder(self._loaded.model)
        assert decoder is not None
        states = decoder(input_ids=prompt, use_cache=False)[0]  # (1, num_tokens, size)
        mean = states[0].float().mean(dim=0)
        if not mean.isfinite().all():
            raise FloatingPointError("the model's hidden states are not numbers")
        embedding: list[float] = torch.nn.functional.normalize(mean, dim=0).tolist()
        return embedding

    def _generate(self, job: _Job) -> FinishReason:
        """Runs one request to its end and passes its tokens on as they come."""
        request, params = job.request, job.request.sampling_params
        prompt = torch.tensor([request.prompt_token_ids], device=self._loaded.model.device)
        end_token_ids = sorted(params.end_token_ids(self._loaded.eos_token_ids))
        recorder = LogitsRecorder()
        prompt_logprobs = self._prompt_logprobs(request, prompt)
        streamer = _TokenStreamer(self, job, recorder, prompt_logprobs)
        grammar = request.grammar
        matcher = grammar.start(frozenset(end_token_ids)) if grammar else None
        criteria: list[StoppingCriteria] = [_AbortCriteria(job.aborted)]
        if matcher is not None:
            criteria.append(GrammarCriteria(matcher, end_token_ids))
        if params.seed is None:
            torch.seed()  # else the last request's seed would decide this one too
        else:
            torch.manual_seed(params.seed)
        try:
            self._loaded.model.generate(  # type: ignore[operator]
                prompt,  # (1, num_prompt_tokens)
                attention_mask=torch.ones_like(prompt),
                generation_config=generation_config(params, end_token_ids),
                logits_processor=logits_processors(
                    params, prompt, end_token_ids, recorder, matcher
                ),
                stopping_criteria=criteria,
                streamer=streamer,
            )
        finally:
            if matcher is not None:
                matcher.close()
        is_complete = matcher is not None and matcher.is_complete
        if streamer.last_token_id in end_token_ids or is_complete:
            return FinishReason.STOP
        if streamer.num_tokens == params.max_tokens:
            return FinishReason.LENGTH
        return FinishReason.ABORT

    @torch.inference_mode()
    def _prompt_logprobs(self, request: Request, prompt: torch.Tensor) -> list[PositionLogprobs]:
        num_top = request.sampling_params.prompt_logprobs
        if num_top is None:
            return []
        logits = self._loaded.model(input_ids=prompt, use_cache=False).logits[0, :-1].float()
        token_ids = request.prompt_token_ids[1:]
        return find_logprobs(logits, token_ids, [num_top] * len(token_ids))

    def on_token(self, output: RequestOutput) -> None:
        """Called by the streamer, inside `generate`."""
        self._step_started = time.monotonic()
        self._publish(output)
        self._drop(self._is_late, FinishReason.EXPIRED)

    def _publish(self, output: RequestOutput) -> None:
        num_running = int(self._running is not None)
        num_live = self.admission.num_live - (output.finish_reason is not None)
        stats = EngineStats(num_running, num_live - num_running)
        self.admission.publish(EngineUpdate([output], stats))


class _TokenStreamer(BaseStreamer):
    """`generate` hands it the prompt first, then every new token."""

    def __init__(
        self,
        engine: ReferenceEngine,
        job: _Job,
        recorder: LogitsRecorder,
        prompt_logprobs: list[PositionLogprobs],
    ) -> None:
        self._engine = engine
        self._job = job
        self._request = job.request
        self._recorder = recorder
        self._prompt_logprobs = prompt_logprobs
        self._seen_prompt = False
        self.num_tokens = 0
        self.last_token_id: int | None = None

    def put(self, value: torch.Tensor) -> None:
        if not self._seen_prompt:
            self._seen_prompt = True
            return
        self.last_token_id = int(value.item())
        self.num_tokens += 1
        admission, self._job.admission = self._job.admission, None
        self._engine.on_token(
            RequestOutput(
                self._request.request_id,
                [self.last_token_id],
                logprobs=self._logprobs(self.last_token_id),
                prompt_logprobs=self._prompt_logprobs,
                admission=admission,
            )
        )
        self._prompt_logprobs = []

    def _logprobs(self, token_id: int) -> list[PositionLogprobs]:
        num_top = self._request.sampling_params.logprobs
        if num_top is None or self._recorder.logits is None:
            return []
        return find_logprobs(self._recorder.logits, [token_id], [num_top])

    def end(self) -> None:
        pass


class _AbortCriteria(StoppingCriteria):
    def __init__(self, aborted: threading.Event) -> None:
        self._aborted = aborted

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._aborted.is_set(), device=input_ids.device)
