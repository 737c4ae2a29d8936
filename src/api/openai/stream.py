"""Streams of this API: chunks of choices, and the usage if it is asked for."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Protocol

from fastapi import Request
from pydantic import BaseModel

from src.api.openai.answers import Usage, UsageCount
from src.api.openai.fields import GenerationRequest
from src.api.sse import EventStream, stream_events
from src.config import Settings
from src.generation import TextDelta


class ChunkRenderer(Protocol):
    """Who makes chunks of what is new."""

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
    """Answers with chunks, once the first is there. Raises as `stream_events`."""
    chunks = _chunks(deltas, renderer, count, includes_usage=body.includes_usage)
    return await stream_events(request, chunks, _as_it_is, settings.send_timeout_seconds)


def _as_it_is(chunk: BaseModel) -> list[BaseModel]:
    return [chunk]


async def _chunks(
    deltas: AsyncGenerator[TextDelta],
    renderer: ChunkRenderer,
    count: UsageCount,
    *,
    includes_usage: bool,
) -> AsyncGenerator[BaseModel]:
    async with aclosing(deltas):
        async for delta in deltas:
            count.add(delta)
            for chunk in renderer.chunks(delta):
                yield chunk
    if includes_usage:
        yield renderer.usage_chunk(count.usage())
