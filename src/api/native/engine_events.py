"""Route `/v1/engine/events`: steps of the engine as Server-Sent Events, for live views."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.sse import format_sse_event

from src.api.deps import DrainingDep, SettingsDep, StepFeedDep
from src.api.sse import EventStream, stream_times
from src.errors import OverloadedError
from src.observability.step_feed import StepFeed
from src.server.draining import Draining

router = APIRouter(tags=["operations"])

INTERVAL = 0.1
"""Seconds between two events; each has the steps since the one before."""

MAX_SECONDS = 3600
RETRY_AFTER = 5

Seconds = Annotated[float, Query(gt=0, le=MAX_SECONDS, description="Length of the stream.")]


@router.get("/v1/engine/events", include_in_schema=False)
async def engine_events(
    request: Request,
    feed: StepFeedDep,
    draining: DrainingDep,
    settings: SettingsDep,
    seconds: Seconds = 1,
) -> EventStream:
    """Steps of the engine from now on, without ids and texts of requests."""
    if feed.is_full:
        raise OverloadedError("Too many clients watch the engine.", RETRY_AFTER)
    events = _events(feed, draining, seconds)
    return EventStream(request, events, stream_times(settings))


async def _events(feed: StepFeed, draining: Draining, seconds: float) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    with feed.listen() as steps:
        while loop.time() < deadline and not draining.is_draining:
            await asyncio.sleep(min(INTERVAL, seconds))
            event = {"stats": asdict(feed.stats), "steps": [asdict(step) for step in steps]}
            steps.clear()
            yield format_sse_event(data_str=json.dumps(event))
