"""Lesson one: serve a model with HuggingFace's own `generate`, one request at a time.

This is the simplest engine that is correct, and therefore the oracle for faster ones. Tokens leave
as they are made. It is slow under load for one reason: while one request runs, all others wait.
"""

import time
from collections import deque
from dataclasses import dataclass, field

import torch
from transformers import StoppingCriteria

from src.engine.admission import AdmissionController
from src.engine.engine_thread import EngineThread
from src.engine.isolation import is_containable, log_failure
from src.engine.logprobs import PositionLogprobs
from src.engine.model.hidden_states import find_decoder
from src.engine.model.loader import LoadedModel
from src.engine.reference.hf_sampling import (
    GrammarCriteria,
    LogitsRecorder,
    ThoughtCriteria,
    generation_config,
    logits_processors,
)
from src.engine.reference.hf_streaming import AbortCriteria, TokenStreamer
from src.engine.request import (
    Admission,
    EngineStats,
    EngineUpdate,
    FinishReason,
    Request,
    RequestOutput,
)
from src.engine.sampling.logprobs import find_logprobs, process_logits, reports_processed


@dataclass(slots=True, eq=False)
class _Job:
    """A request in the engine, and what its next output carries."""

    request: Request
    is_aborted: bool = False
    admission: Admission | None = None  # until it left with the first token
    prompt_logprobs: list[PositionLogprobs] = field(default_factory=list)  # likewise
    recorder: LogitsRecorder = field(default_factory=LogitsRecorder)


class ReferenceEngine(EngineThread):
    """Runs requests one after the other, each with `model.generate`.

    Args:
        loaded: the model to run.
        admission: admits requests and publishes their outputs.
        max_queue_seconds: longest wait of a request for its turn. Of requests that belong to one
            group only the first can expire.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        admission: AdmissionController,
        max_queue_seconds: float = float("inf"),
    ) -> None:
        super().__init__("reference-engine", admission)
        self._loaded = loaded
        self._max_queue_seconds = max_queue_seconds
        self._waiting: deque[_Job] = deque()
        self._running: _Job | None = None
        self._group = ""  # of the last job that had its turn
        self._thread.start()

    @property
    def num_cache_tokens(self) -> None:
        return None

    @property
    def _has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def _add(self, request: Request) -> None:
        self._waiting.append(_Job(request))

    def _abort(self, request_id: str) -> None:
        if self._running is not None and self._running.request.request_id == request_id:
            self._running.is_aborted = True
        jobs = [job for job in self._waiting if job.request.request_id == request_id]
        self._drop(jobs, FinishReason.ABORT)

    def _drop(self, jobs: list[_Job], reason: FinishReason) -> None:
        """Ends jobs that wait."""
        for job in jobs:
            self._waiting.remove(job)
            self._publish(RequestOutput(job.request.request_id, [], reason))

    def _is_late(self, job: _Job) -> bool:
        if job.request.group and job.request.group == self._group:
            return False
        return time.monotonic() - job.request.arrived_at > self._max_queue_seconds

    def _step(self) -> None:
        """Runs the next request from its beginning to its end."""
        self._running = job = self._waiting.popleft()
        output = self._serve(job)
        self._running = None
        self._publish(output)

    def _serve(self, job: _Job) -> RequestOutput:
        """Returns the request's last output."""
        request = job.request
        if self._is_late(job):
            return RequestOutput(request.request_id, [], FinishReason.EXPIRED)
        self._group = request.group
        self._start_step()
        job.admission = Admission(time.monotonic() - request.arrived_at)
        reason, embedding = FinishReason.EMBEDDED, list[float]()
        try:
            if request.embeds:
                embedding = self._embed(request)
            else:
                reason = self._generate(job)
        except BaseException as error:
            if not is_containable(error):
                raise
            reason = log_failure(request)
        finally:
            self._end_step()
        return RequestOutput(
            request.request_id, [], reason, admission=job.admission, embedding=embedding
        )

    @torch.inference_mode()
    def _embed(self, request: Request) -> list[float]:
        decoder = find_decoder(self._loaded.model)
        assert decoder is not None
        states = decoder(input_ids=self._prompt(request), use_cache=False)[0]  # (1, tokens, size)
        pooled = {"mean": states[0], "last": states[0, -1:], "cls": states[0, :1]}
        total = pooled[self._loaded.embedding.pooling].float().mean(dim=0)
        if not total.isfinite().all():
            raise FloatingPointError("the model's hidden states are NaN or infinite")
        embedding: list[float] = torch.nn.functional.normalize(total, dim=0).tolist()
        return embedding

    def _prompt(self, request: Request) -> torch.Tensor:
        """Returns the prompt as a batch of one, (1, num_prompt_tokens)."""
        return torch.tensor([request.prompt_token_ids], device=self._loaded.model.device)

    def _generate(self, job: _Job) -> FinishReason:
        """Runs one request to its end and publishes its tokens as they come."""
        request, params = job.request, job.request.sampling_params
        prompt = self._prompt(request)
        end_token_ids = sorted(params.end_token_ids(self._loaded.eos_token_ids))
        job.prompt_logprobs = self._prompt_logprobs(request, prompt)
        streamer = TokenStreamer(lambda token_id: self._on_token(job, token_id))
        matcher = request.grammar.start(frozenset(end_token_ids)) if request.grammar else None
        thought = request.thought.start() if request.thought else None
        criteria: list[StoppingCriteria] = [AbortCriteria(lambda: job.is_aborted)]
        if matcher is not None:
            criteria.append(GrammarCriteria(matcher, end_token_ids, thought))
        if thought is not None:
            criteria.append(ThoughtCriteria(thought))
        if params.seed is None:
            torch.seed()  # otherwise the last request's seed would decide this one too
        else:
            torch.manual_seed(params.seed)
        try:
            self._loaded.model.generate(  # type: ignore[operator]
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=generation_config(params, end_token_ids),
                logits_processor=logits_processors(
                    params, prompt, end_token_ids, job.recorder, matcher, thought
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

    def _on_token(self, job: _Job, token_id: int) -> None:
        """Publishes a token inside `generate`; then reads the inbox, as between two steps."""
        self._start_step()
        self._publish(
            RequestOutput(
                job.request.request_id,
                [token_id],
                logprobs=_logprobs(job, token_id),
                prompt_logprobs=job.prompt_logprobs,
                admission=job.admission,
            )
        )
        job.prompt_logprobs, job.admission = [], None
        if not self._read_inbox():
            job.is_aborted = True
        self._drop([one for one in self._waiting if self._is_late(one)], FinishReason.EXPIRED)

    def _publish(self, output: RequestOutput) -> None:
        num_running = int(self._running is not None)
        num_live = self.admission.num_live - (output.finish_reason is not None)
        stats = EngineStats(num_running, num_live - num_running)
        self.admission.publish(EngineUpdate([output], stats))


def _logprobs(job: _Job, token_id: int) -> list[PositionLogprobs]:
    params, logits = job.request.sampling_params, job.recorder.logits
    if params.logprobs is None or logits is None:
        return []
    order = logits
    if reports_processed(params):
        logits = process_logits(logits[0].float(), params, token_id)[None]
    return find_logprobs(logits, [token_id], [params.logprobs], params.logprobs_mode, order)
