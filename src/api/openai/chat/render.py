"""Generations in the words of `/v1/chat/completions`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from src.api.openai.answers import Usage, UsageCount, answer_head, token_logprob
from src.api.openai.chat.protocol import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatLogprob,
    ChatPositionLogprob,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    FinishReason,
)
from src.engine import logprobs
from src.engine import request as engine_request
from src.generation import Generation, TextDelta
from src.inference import InferenceEngine


@dataclass(slots=True)
class ChatRenderer:
    """Makes the answer to one request, whole or in chunks.

    Args:
        engine: knows how tokens are written.
        body: the request.
    """

    engine: InferenceEngine
    body: ChatCompletionRequest
    _head: dict[str, Any] = field(init=False)
    _begun: set[int] = field(default_factory=set)  # indexes of choices

    def __post_init__(self) -> None:
        kind = "chat.completion.chunk" if self.body.stream else "chat.completion"
        self._head = answer_head("chatcmpl", kind, self.engine)
        if self.body.includes_usage:
            self._head["usage"] = None

    def whole(self, generation: Generation, count: UsageCount) -> ChatCompletion:
        """The answer without a stream."""
        choices = [
            ChatChoice(
                index=index,
                message=AnswerMessage(role="assistant", content=one.text, refusal=None),
                logprobs=self._logprobs(one.logprobs),
                finish_reason=_finish_reason(one.finish_reason) or "length",
            )
            for index, one in enumerate(generation.completions)
        ]
        return ChatCompletion(**self._head | {"choices": choices, "usage": count.usage()})

    def chunks(self, delta: TextDelta) -> Iterator[ChatCompletionChunk]:
        """The role, the text and the end, each in a chunk of its own."""
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            first = Delta(role="assistant", content="", refusal=None)
            yield self._chunk(delta.index, first, None, None)
        if delta.text or (delta.logprobs and self.body.logprobs):
            found = self._logprobs(delta.logprobs) if delta.logprobs else None
            yield self._chunk(delta.index, Delta(content=delta.text), found, None)
        reason = _finish_reason(delta.finish_reason)
        if reason is not None:
            yield self._chunk(delta.index, Delta(), None, reason)

    def usage_chunk(self, usage: Usage) -> ChatCompletionChunk:
        return ChatCompletionChunk(**self._head | {"choices": [], "usage": usage})

    def _chunk(
        self,
        index: int,
        delta: Delta,
        found: ChoiceLogprobs | None,
        reason: FinishReason | None,
    ) -> ChatCompletionChunk:
        choice = ChunkChoice(index=index, delta=delta, logprobs=found, finish_reason=reason)
        return ChatCompletionChunk(**self._head | {"choices": [choice]})

    def _logprobs(self, positions: list[logprobs.PositionLogprobs]) -> ChoiceLogprobs | None:
        if not self.body.logprobs:
            return None
        content = [
            ChatPositionLogprob(
                **token_logprob(self.engine, position.chosen),
                top_logprobs=[
                    ChatLogprob(**token_logprob(self.engine, one)) for one in position.top
                ],
            )
            for position in positions
        ]
        return ChoiceLogprobs(content=content, refusal=None)


def _finish_reason(reason: engine_request.FinishReason | None) -> FinishReason | None:
    if reason is None:
        return None
    return "stop" if reason is engine_request.FinishReason.STOP else "length"
