"""Dependencies of routes (engine, settings, metrics) and helpers for work on a request."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from src.config import Settings
from src.core.identity import ANONYMOUS
from src.errors import ClientDisconnectedError
from src.inference import InferenceEngine
from src.jobs.access import Jobs
from src.jobs.records import Owner
from src.middleware.error_body import CALLER
from src.middleware.request_body import JSONRequest
from src.observability.http_metrics import HttpMetrics
from src.observability.step_feed import StepFeed
from src.playground.files import Playground
from src.server.draining import Draining
from src.server.service import service_of

T = TypeVar("T")


def get_engine(request: Request) -> InferenceEngine:
    return service_of(request.app).engine


def get_settings(request: Request) -> Settings:
    return service_of(request.app).settings


def get_metrics(request: Request) -> HttpMetrics:
    return service_of(request.app).http_metrics


def get_draining(request: Request) -> Draining:
    return service_of(request.app).draining


def get_playground(request: Request) -> Playground | None:
    return service_of(request.app).playground


def get_step_feed(request: Request) -> StepFeed:
    return service_of(request.app).engine_metrics.step_feed


async def get_jobs(request: Request) -> Jobs:
    """Opens BATCH_DIR; raises StorageDownError or StorageFullError if that fails."""
    return await service_of(request.app).jobs.open()


def get_owner(request: Request) -> Owner:
    client = request.scope.get("client")
    return Owner(request.scope.get(CALLER, ANONYMOUS), client[0] if client else None)


def get_runner_wake(request: Request) -> Callable[[], None]:
    return service_of(request.app).jobs.wake


EngineDep = Annotated[InferenceEngine, Depends(get_engine)]
SettingsDep = Annotated[Settings, Depends(get_settings)]
MetricsDep = Annotated[HttpMetrics, Depends(get_metrics)]
DrainingDep = Annotated[Draining, Depends(get_draining)]
StepFeedDep = Annotated[StepFeed, Depends(get_step_feed)]
JobsDep = Annotated[Jobs, Depends(get_jobs)]
OwnerDep = Annotated[Owner, Depends(get_owner)]
RunnerWakeDep = Annotated[Callable[[], None], Depends(get_runner_wake)]
PlaygroundDep = Annotated[Playground | None, Depends(get_playground)]


async def off_loop(request: Request, work: Callable[[], T]) -> T:
    """Runs `work` and returns its result; runs it in a thread if the request's body is large."""
    if isinstance(request, JSONRequest) and request.is_large:
        return await asyncio.to_thread(work)
    return work()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`, and cancels it if the client disconnects first.

    The body must have been read, so that the next ASGI message is the disconnect.

    Raises:
        ClientDisconnectedError: the client has disconnected.
    """
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait([task, disconnect], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnectedError
        return task.result()
    finally:
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
