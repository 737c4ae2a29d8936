"""Generations in the words of `/v1/responses`: whole answers and events, by the same code."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from src.api.openai.answers import token_logprob
from src.api.openai.response.answer import (
    AnswerText,
    EventLogprob,
    EventTopLogprob,
    IncompleteDetails,
    InputTokensDetails,
    ItemEvent,
    OutputLogprob,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    PartEvent,
    Response,
    ResponseError,
    ResponseEvent,
    ResponseUsage,
    Status,
    TextDeltaEvent,
    TextDoneEvent,
    TopLogprob,
)
from src.api.openai.response.protocol import ResponseRequest
from src.api.sse import Failure
from src.engine.logprobs import PositionLogprobs
from src.engine.request import FinishReason
from src.generation import Generation, TextDelta
from src.inference import InferenceEngine


@dataclass(slots=True)
class ResponseRenderer:
    """Makes the answer to one request, whole or in events.

    Args:
        engine: knows how tokens are written.
        body: the request.
        num_prompt_tokens: of the conversation.
    """

    engine: InferenceEngine
    body: ResponseRequest
    num_prompt_tokens: int
    _id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    _item_id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    _created_at: int = field(default_factory=lambda: int(time.time()))
    _num_events: int = 0
    _text: str = ""
    _logprobs: list[OutputLogprob] = field(default_factory=list)
    _num_tokens: int = 0
    _num_cached_tokens: int = 0

    def whole(self, generation: Generation) -> Response:
        """The answer without a stream."""
        (one,) = generation.completions
        delta = TextDelta(
            0,
            one.text,
            one.num_tokens,
            one.finish_reason,
            one.logprobs,
            num_cached_tokens=generation.num_cached_tokens,
        )
        self._add(delta)
        status = _status(one.finish_reason)
        return self._response(status, [self._message(status)])

    def events(self, delta: TextDelta) -> Iterator[BaseModel]:
        """What a delta says: the first one begins the answer, the last one ends it."""
        if self._num_events == 0:
            yield from self._beginning()
        found = self._add(delta)
        if delta.text or found:
            yield TextDeltaEvent(
                **self._head("response.output_text.delta"),
                **self._place(),
                content_index=0,
                delta=delta.text,
                logprobs=_for_events(found),
            )
        if delta.finish_reason is not None:
            yield from self._end(_status(delta.finish_reason))

    def failure(self, failure: Failure) -> ResponseEvent:
        """The last event of an answer that fails."""
        error = ResponseError(code="server_error", message=failure.message)
        response = self._response("failed", [self._message("incomplete")], error)
        return ResponseEvent(**self._head("response.failed"), response=response)

    def _beginning(self) -> Iterator[BaseModel]:
        for kind in ("response.created", "response.in_progress"):
            yield ResponseEvent(**self._head(kind), response=self._response("in_progress", []))
        empty = self._message("in_progress", [])
        yield ItemEvent(**self._head("response.output_item.added"), output_index=0, item=empty)
        yield PartEvent(
            **self._head("response.content_part.added"),
            **self._place(),
            content_index=0,
            part=self._part(),
        )

    def _end(self, status: Literal["completed", "incomplete"]) -> Iterator[BaseModel]:
        yield TextDoneEvent(
            **self._head("response.output_text.done"),
            **self._place(),
            content_index=0,
            text=self._text,
            logprobs=_for_events(self._logprobs),
        )
        yield PartEvent(
            **self._head("response.content_part.done"),
            **self._place(),
            content_index=0,
            part=self._part(),
        )
        message = self._message(status)
        yield ItemEvent(**self._head("response.output_item.done"), output_index=0, item=message)
        response = self._response(status, [message])
        yield ResponseEvent(**self._head(f"response.{status}"), response=response)

    def _head(self, kind: str) -> dict[str, Any]:
        """The fields with which each event begins."""
        number = self._num_events
        self._num_events += 1
        return {"type": kind, "sequence_number": number}

    def _place(self) -> dict[str, Any]:
        """Where in the output the text is."""
        return {"item_id": self._item_id, "output_index": 0}

    def _add(self, delta: TextDelta) -> list[OutputLogprob]:
        """Takes in what is new; returns the log-probabilities, if they are asked for."""
        self._text += delta.text
        self._num_tokens += delta.num_tokens
        self._num_cached_tokens += delta.num_cached_tokens
        found = [self._logprob(one) for one in delta.logprobs] if self.body.include else []
        self._logprobs += found
        return found

    def _logprob(self, position: PositionLogprobs) -> OutputLogprob:
        return OutputLogprob(
            **token_logprob(self.engine, position.chosen),
            top_logprobs=[TopLogprob(**token_logprob(self.engine, one)) for one in position.top],
        )

    def _part(self) -> OutputText:
        return OutputText(
            type="output_text", text=self._text, annotations=[], logprobs=self._logprobs
        )

    def _message(self, status: Status, content: list[OutputText] | None = None) -> OutputMessage:
        return OutputMessage(
            id=self._item_id,
            type="message",
            role="assistant",
            status=status,
            content=[self._part()] if content is None else content,
        )

    def _response(
        self,
        status: Literal["in_progress", "completed", "incomplete", "failed"],
        output: list[OutputMessage],
        error: ResponseError | None = None,
    ) -> Response:
        body = self.body
        is_cut = status == "incomplete"
        return Response(
            id=self._id,
            object="response",
            created_at=self._created_at,
            completed_at=int(time.time()) if status == "completed" else None,
            status=status,
            background=False,
            error=error,
            incomplete_details=IncompleteDetails(reason="max_output_tokens") if is_cut else None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            model=self.engine.model_name,
            output=output,
            parallel_tool_calls=body.parallel_tool_calls is not False,
            previous_response_id=None,
            prompt_cache_key=body.prompt_cache_key,
            safety_identifier=body.safety_identifier,
            service_tier="default",
            temperature=1 if body.temperature is None else body.temperature,
            text=AnswerText(format=body.text_format.model_dump(by_alias=True, exclude_none=True)),
            tool_choice=body.tool_choice or "auto",
            tools=[],
            top_logprobs=body.top_logprobs or 0,
            top_p=1 if body.top_p is None else body.top_p,
            truncation="disabled",
            usage=None if status == "in_progress" else self._usage(),
            user=body.user,
        )

    def _usage(self) -> ResponseUsage:
        return ResponseUsage(
            input_tokens=self.num_prompt_tokens,
            input_tokens_details=InputTokensDetails(
                cached_tokens=self._num_cached_tokens, cache_write_tokens=0
            ),
            output_tokens=self._num_tokens,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
            total_tokens=self.num_prompt_tokens + self._num_tokens,
        )


def _status(reason: FinishReason | None) -> Literal["completed", "incomplete"]:
    return "completed" if reason is FinishReason.STOP else "incomplete"


def _for_events(found: list[OutputLogprob]) -> list[EventLogprob]:
    """Events tell no bytes."""
    return [
        EventLogprob(
            token=position.token,
            logprob=position.logprob,
            top_logprobs=[
                EventTopLogprob(token=one.token, logprob=one.logprob)
                for one in position.top_logprobs
            ],
        )
        for position in found
    ]
