"""Streams of completions and chats: chunks of choices, then optionally the usage."""

from collections.abc import AsyncGenerator, Iterable
from typing import Any, Protocol

from fastapi import Request
from pydantic import BaseModel

from src.api.fields.timings import timings_fields
from src.api.openai.common import UsageCount
from src.api.openai.family import OpenAIErrorResponse
from src.api.openai.fields import GenerationRequest
from src.api.openapi import stream_documentation
from src.api.sse import EventStream, stream_events, stream_times
from src.config import Settings
from src.core.outputs import TextDelta
from src.core.timings import CallTimings


def chunk_stream(chunk: type[BaseModel]) -> dict[str, Any]:
    """Returns the documentation of a 200 that is an answer or a stream of chunks."""
    description = "The answer; with `stream` a chunk in the data of each event, then `[DONE]`."
    return stream_documentation(description, chunk, OpenAIErrorResponse)


class ChunkRenderer(Protocol):
    """Renders deltas as chunks."""

    def chunks(self, delta: TextDelta) -> Iterable[BaseModel]: ...

    def end_chunk(self, fields: dict[str, Any]) -> BaseModel:
        """Returns the last chunk, which has fields of the whole answer and no choices."""


async def stream_chunks(
    request: Request,
    body: GenerationRequest,
    deltas: AsyncGenerator[TextDelta],
    renderer: ChunkRenderer,
    count: UsageCount,
    settings: Settings,
    timings: CallTimings,
) -> EventStream:
    """Returns a stream of chunks, once the first delta exists; raises as `stream_events`."""

    def render(delta: TextDelta) -> Iterable[BaseModel]:
        count.add(delta)
        return renderer.chunks(delta)

    def render_end() -> Iterable[BaseModel]:
        fields: dict[str, Any] = {"usage": count.usage()} if body.includes_usage else {}
        fields |= timings_fields(body.timings, timings)
        return [renderer.end_chunk(fields)] if fields else []

    times = stream_times(settings)
    return await stream_events(request, deltas, render, times, render_end=render_end)
