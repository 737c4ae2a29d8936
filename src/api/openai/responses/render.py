"""Rendering of generations as answers and events of `/v1/responses`."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from src.api.chat.pipeline import DeltaReader, PreparedChat
from src.api.family import Failure
from src.api.fields.priority import used_tier
from src.api.fields.timings import timings_fields
from src.api.openai.common import token_logprob
from src.api.openai.responses.output import OutputWriter
from src.api.openai.responses.request import ReasoningConfig, ResponseRequest
from src.api.openai.responses.response import (
    AnswerReasoning,
    AnswerText,
    IncompleteDetails,
    InputTokensDetails,
    OutputItem,
    OutputLogprob,
    OutputTokensDetails,
    Response,
    ResponseError,
    ResponseEvent,
    ResponseUsage,
    TopLogprob,
)
from src.core.outputs import LOGPROB_SIZE, Generation, TextDelta
from src.engine.logprobs import PositionLogprobs
from src.engine.request import FinishReason
from src.tool_calling.parser import ContentDelta, ReasoningDelta


@dataclass(slots=True)
class ResponseRenderer:
    """Renders the answer to one request, whole or in events.

    Args:
        body: the request's wire model.
        chat: the prepared request.
        num_request_bytes: size of the body, parts of which the answer repeats.
    """

    body: ResponseRequest
    chat: PreparedChat
    num_request_bytes: int
    _reader: DeltaReader = field(init=False)
    _id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    _created_at: int = field(default_factory=lambda: int(time.time()))
    _output: OutputWriter = field(init=False)
    _num_tokens: int = 0
    _num_cached_tokens: int = 0
    _num_reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        self._reader = DeltaReader(self.chat.create_reader())
        self._output = OutputWriter(self._logprob)

    def whole(self, generation: Generation) -> Response:
        """Returns the whole answer, built from the events of one delta with all text."""
        (completion,) = generation.completions
        delta = TextDelta(
            0,
            completion.text,
            completion.num_tokens,
            completion.finish_reason,
            completion.logprobs,
            num_cached_tokens=generation.num_cached_tokens,
            reasoning=completion.reasoning,
            num_reasoning_tokens=completion.num_reasoning_tokens,
        )
        for _ in self.events(delta):
            pass
        return self._response(_status(completion.finish_reason), self._output.done)

    def queued(self) -> Response:
        """Returns the response before it is answered."""
        return self._response("queued", [])

    def events(self, delta: TextDelta) -> Iterator[BaseModel]:
        """Yields the events of a delta; the first delta begins the answer, the last one ends it."""
        if self._output.num_events == 0:
            for kind in ("response.created", "response.in_progress"):
                response = self._response("in_progress", [])
                yield ResponseEvent(**self._output.head(kind), response=response)
        self._num_tokens += delta.num_tokens
        self._num_cached_tokens += delta.num_cached_tokens
        self._num_reasoning_tokens += delta.num_reasoning_tokens
        parsed = self._reader.read(delta)
        logprobs = delta.logprobs if self.body.wants_logprobs else []
        is_thought = bool(parsed) and isinstance(parsed[-1], ReasoningDelta)
        if logprobs and (not parsed or is_thought):  # the parser holds the text back
            parsed.append(ContentDelta(""))
        for event in parsed:
            if isinstance(event, ReasoningDelta):
                yield from self._output.advance(event, [])
                continue
            yield from self._output.advance(event, logprobs)
            logprobs = []
        if delta.finish_reason is not None:
            yield from self._end(_status(delta.finish_reason))

    def events_size(self, delta: TextDelta) -> int:
        """Returns the approximate size of a delta's events in bytes.

        The first and the last events repeat the request, and the last ones the answer too.
        """
        num_bytes = delta.size
        if delta.finish_reason is not None:
            per_position = LOGPROB_SIZE * (1 + (self.body.top_logprobs or 0))
            num_bytes += self._output.num_logprobs * per_position
        has_request = delta.finish_reason is not None or not self._output.num_events
        return num_bytes + (self.num_request_bytes if has_request else 0)

    def failure(self, failure: Failure) -> ResponseEvent:
        """Returns the last event of an answer that fails."""
        error = ResponseError(code="server_error", message=failure.message)
        response = self._response("failed", self._output.cut(), error)
        return ResponseEvent(**self._output.head("response.failed"), response=response)

    def _end(self, status: Literal["completed", "incomplete"]) -> Iterator[BaseModel]:
        yield from self._output.finish(status)
        response = self._response(status, self._output.done)
        yield ResponseEvent(**self._output.head(f"response.{status}"), response=response)

    def _logprob(self, position: PositionLogprobs) -> OutputLogprob:
        engine = self.chat.engine
        return OutputLogprob(
            **token_logprob(engine, position.chosen),
            top_logprobs=[TopLogprob(**token_logprob(engine, token)) for token in position.top],
        )

    def _response(
        self,
        status: Literal["queued", "in_progress", "completed", "incomplete", "failed"],
        output: list[OutputItem],
        error: ResponseError | None = None,
    ) -> Response:
        body = self.body
        is_cut, is_over = status == "incomplete", status not in ("queued", "in_progress")
        extra = timings_fields(body.timings and is_over, self.chat.context.timings)
        if body.reasoning:
            extra["reasoning"] = _reasoning(body)
        return Response(
            id=self._id,
            object="response",
            created_at=self._created_at,
            completed_at=int(time.time()) if status == "completed" else None,
            status=status,
            background=self.body.background is True,
            error=error,
            incomplete_details=IncompleteDetails(reason="max_output_tokens") if is_cut else None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            model=self.chat.engine.model_name,
            output=list(output),
            parallel_tool_calls=body.parallel_tool_calls is not False,
            previous_response_id=None,
            prompt_cache_key=body.prompt_cache_key,
            safety_identifier=body.safety_identifier,
            service_tier=used_tier(),
            **extra,
            temperature=self.chat.params.temperature,
            text=AnswerText(format=_dumped(body.text_format)),
            tool_choice=_dumped(body.tool_choice or "auto"),
            tools=[_dumped(tool) for tool in body.tools or ()],
            top_logprobs=body.top_logprobs or 0,
            top_p=self.chat.params.top_p,
            truncation="disabled",
            usage=self._usage() if is_over else None,
            user=body.user,
        )

    def _usage(self) -> ResponseUsage:
        return ResponseUsage(
            input_tokens=self.chat.num_prompt_tokens,
            input_tokens_details=InputTokensDetails(
                cached_tokens=self._num_cached_tokens, cache_write_tokens=0
            ),
            output_tokens=self._num_tokens,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=self._num_reasoning_tokens),
            total_tokens=self.chat.num_prompt_tokens + self._num_tokens,
        )


def _reasoning(body: ResponseRequest) -> AnswerReasoning:
    config = body.reasoning or ReasoningConfig()
    return AnswerReasoning(effort=config.effort, summary=config.summary)


def _status(reason: FinishReason | None) -> Literal["completed", "incomplete"]:
    return "completed" if reason is FinishReason.STOP else "incomplete"


def _dumped(part: Any) -> Any:
    """Returns a part of the request as it was sent; schemas, which may be large, are not copied."""
    if not isinstance(part, BaseModel):
        return part
    values = {
        field.alias or name: getattr(part, name) for name, field in type(part).model_fields.items()
    }
    return {name: value for name, value in values.items() if value is not None}
