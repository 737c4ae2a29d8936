"""Lesson one: serve a model with HuggingFace's own `generate`, one request at a time.

It is the simplest engine that is correct, and so the oracle for faster ones. One thread owns the
model and takes requests from an inbox in order; tokens leave through each request's callback as
they are made. It is slow under load for one reason: while one request runs, all others wait.
"""

import logging
import queue
import threading
from dataclasses import dataclass, field

import torch
from transformers import GenerationConfig, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from src.engine.model_loader import LoadedModel
from src.engine.request import FinishReason, OutputCallback, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.errors import EngineDeadError

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Job:
    """A request on its way through the engine."""

    request: Request
    on_output: OutputCallback
    aborted: threading.Event = field(default_factory=threading.Event)


class ReferenceEngine:
    """Runs requests one after the other, each with `model.generate`.

    Args:
        loaded: what to run.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._jobs: dict[str, _Job] = {}  # live ones, waiting and running
        self._lock = threading.Lock()  # guards the two around it
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="reference-engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """False once the thread has ended or was told to."""
        return self._is_open

    @property
    def num_live(self) -> int:
        """Requests that wait or run."""
        return len(self._jobs)

    def add_request(self, request: Request, on_output: OutputCallback) -> None:
        """Queues a request. Its last output carries a finish reason, whatever happens.

        Raises:
            EngineDeadError: the engine takes no requests any more.
        """
        job = _Job(request, on_output)
        with self._lock:
            if not self._is_open:
                raise EngineDeadError("The engine has ended and takes no requests.")
            assert request.request_id not in self._jobs
            self._jobs[request.request_id] = job
        self._inbox.put(job)

    def abort_request(self, request_id: str) -> None:
        """Ends a request within a token; one that is not there is none of our business."""
        with self._lock:
            job = self._jobs.get(request_id)
        if job is not None:
            job.aborted.set()

    def shutdown(self) -> None:
        """Aborts all requests and waits for the thread to end. May be called twice."""
        with self._lock:
            self._is_open = False
            for job in self._jobs.values():
                job.aborted.set()
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while (job := self._inbox.get()) is not None:
                self._finish(job, self._serve(job))
        except BaseException:
            logger.critical("the engine's thread has died", exc_info=True)
        finally:
            self._fail_all()

    def _serve(self, job: _Job) -> FinishReason:
        if job.aborted.is_set():
            return FinishReason.ABORT
        try:
            return self._generate(job)
        except Exception:
            logger.exception("request failed", extra={"request": job.request.request_id})
            return FinishReason.ERROR

    def _generate(self, job: _Job) -> FinishReason:
        """Runs one request to its end and passes its tokens on as they come."""
        request, params = job.request, job.request.sampling_params
        streamer = _TokenStreamer(request.request_id, job.on_output)
        prompt = torch.tensor([request.prompt_token_ids], device=self._loaded.model.device)
        if params.seed is None:
            torch.seed()  # else the last request's seed would decide this one too
        else:
            torch.manual_seed(params.seed)
        self._loaded.model.generate(  # type: ignore[operator]
            prompt,  # (1, num_prompt_tokens)
            attention_mask=torch.ones_like(prompt),
            generation_config=self._generation_config(params),
            stopping_criteria=[_AbortCriteria(job.aborted)],
            streamer=streamer,
        )
        if streamer.last_token_id in self._loaded.eos_token_ids:
            return FinishReason.STOP
        if streamer.num_tokens == params.max_tokens:
            return FinishReason.LENGTH
        return FinishReason.ABORT

    def _generation_config(self, params: SamplingParams) -> GenerationConfig:
        """What the request asks for and nothing else: the model's own defaults do not count."""
        sampling = {}
        if not params.is_greedy:
            sampling = {
                "temperature": params.temperature,
                "top_p": params.top_p,
                "top_k": params.top_k,
            }
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=params.max_tokens,
            do_sample=not params.is_greedy,
            eos_token_id=self._loaded.eos_token_ids or None,
            pad_token_id=0,  # never used: the batch is one sequence
            **sampling,
        )

    def _finish(self, job: _Job, reason: FinishReason) -> None:
        with self._lock:
            del self._jobs[job.request.request_id]
        job.on_output(RequestOutput(job.request.request_id, [], reason))

    def _fail_all(self) -> None:
        """The thread ends: whoever still waits is told."""
        with self._lock:
            self._is_open = False
            jobs = list(self._jobs.values())
        for job in jobs:
            aborted = job.aborted.is_set()
            self._finish(job, FinishReason.ABORT if aborted else FinishReason.ERROR)


class _TokenStreamer(BaseStreamer):
    """`generate` hands it the prompt first, then every new token."""

    def __init__(self, request_id: str, on_output: OutputCallback) -> None:
        self._request_id = request_id
        self._on_output = on_output
        self._seen_prompt = False
        self.num_tokens = 0
        self.last_token_id: int | None = None

    def put(self, value: torch.Tensor) -> None:
        if not self._seen_prompt:
            self._seen_prompt = True
            return
        self.last_token_id = int(value.item())
        self.num_tokens += 1
        self._on_output(RequestOutput(self._request_id, [self.last_token_id]))

    def end(self) -> None:
        pass


class _AbortCriteria(StoppingCriteria):
    def __init__(self, aborted: threading.Event) -> None:
        self._aborted = aborted

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._aborted.is_set(), device=input_ids.device)
