"""Streams of completions and chats: chunks of choices, then optionally the usage."""

from collections.abc import AsyncGenerator, Iterable
from typing import Any, Protocol

from fastapi import Request
from pydantic import BaseModel

from src.api.openai.common import Usage, UsageCount
from src.api.openai.family import OpenAIErrorResponse
from src.api.openai.fields import GenerationRequest
from src.api.openapi import stream_documentation
from src.api.sse import EventStream, stream_events, stream_times
from src.config import Settings
from src.core.outputs import TextDelta


def chunk_stream(chunk: type[BaseModel]) -> dict[str, Any]:
    """Returns the documentation of a 200 that is an answer or a stream of chunks."""
    description = "The answer; with `stream` a chunk in the data of each event, then `[DONE]`."
    return stream_documentation(description, chunk, OpenAIErrorResponse)


class ChunkRenderer(Protocol):
    """Renders deltas as chunks."""

    def chunks(self, delta: TextDelta) -> Iterable[BaseModel]: ...

    def usage_chunk(self, usage: Usage) -> BaseModel: ...


async def stream_chunks(
    request: Request,
    body: GenerationRequest,
    deltas: AsyncGenerator[TextDelta],
    renderer: ChunkRenderer,
    count: UsageCount,
    settings: Settings,
) -> EventStream:
    """Returns a stream of chunks, once the first delta exists; raises as `stream_events`."""

    def render(delta: TextDelta) -> Iterable[BaseModel]:
        count.add(delta)
        return renderer.chunks(delta)

    def render_end() -> Iterable[BaseModel]:
        return [renderer.usage_chunk(count.usage())] if body.includes_usage else []

    times = stream_times(settings)
    return await stream_events(request, deltas, render, times, render_end=render_end)
