"""Runners of batches and background responses in a server's process, until it shuts down."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from src.celery_queue.tokens import LineTokens
from src.config import Settings
from src.errors import ServiceError
from src.jobs.access import Jobs
from src.jobs.answers import Route
from src.jobs.background.runner import BackgroundOptions, BackgroundRunner
from src.jobs.batch_run import RunOptions
from src.jobs.runner import Runner
from src.server.internal_route import InternalRoute
from src.server.service import Service, service_of

logger = logging.getLogger(__name__)

RETRY_SECONDS = 15.0
"""Pause after a folder that cannot be used."""

LOOK_SECONDS = 1.0
"""Pause between looks for a folder that another process has created."""


async def run_batches(app: FastAPI) -> None:
    """Runs jobs until cancelled; waits for the model and for the first job before."""
    service = service_of(app)
    opened = asyncio.Event()
    service.jobs.wake = opened.set
    while not (service.is_loaded and service.jobs.exists):
        opened.clear()
        try:
            await asyncio.wait_for(opened.wait(), LOOK_SECONDS)
        except TimeoutError:
            continue
    jobs = await _open(service)
    served_model = service.engine.model_name
    async with _batch_route(app) as route, asyncio.TaskGroup() as group:
        runner = Runner(jobs, route, _options(service), served_model, service.batch_metrics)
        responses = BackgroundRunner(
            jobs.background,
            InternalRoute(app),
            _background_options(service),
            service.batch_metrics,
        )

        def wake() -> None:
            runner.wake()
            responses.wake()

        service.jobs.wake = wake
        group.create_task(runner.run())
        group.create_task(responses.run())


@asynccontextmanager
async def _batch_route(app: FastAPI) -> AsyncIterator[Route]:
    """Yields what answers lines: this process, or Celery's workers."""
    service = service_of(app)
    settings = service.settings
    if settings.batch_backend == "local":
        yield InternalRoute(app)
        return
    from src.celery_queue.app import create_celery  # noqa: PLC0415 - an extra's package
    from src.celery_queue.route import CeleryRoute, RouteOptions  # noqa: PLC0415

    url, secret = settings.batch_broker_url, settings.batch_token_secret
    assert url is not None
    assert secret is not None
    options = RouteOptions(
        settings.batch_chunk_lines,
        settings.batch_chunk_seconds,
        lambda: service.draining.is_draining,
    )
    celery = create_celery(url, settings.batch_chunk_seconds)
    async with CeleryRoute(celery, url, LineTokens(secret), options) as route:
        yield route


async def _open(service: Service) -> Jobs:
    """Opens BATCH_DIR; tries again until it can be used."""
    while True:
        try:
            return await service.jobs.open()
        except ServiceError as error:
            logger.error("batches wait: %s", error, exc_info=error.__cause__)
            await asyncio.sleep(RETRY_SECONDS)


def _background_options(service: Service) -> BackgroundOptions:
    return BackgroundOptions(
        service.settings.batch_concurrency,
        service.engine.model_name,
        lambda: service.draining.is_draining,
    )


def _concurrency(settings: Settings) -> int:
    """Returns the lines that run at the same time, or that are handed to workers."""
    is_local = settings.batch_backend == "local"
    return settings.batch_concurrency if is_local else settings.batch_queue_lines


def _options(service: Service) -> RunOptions:
    settings = service.settings
    return RunOptions(
        max_lines=settings.batch_max_lines,
        max_line_bytes=settings.max_body_bytes,
        concurrency=_concurrency(settings),
        is_served=lambda name: name in service.engine.names,
        is_stopping=lambda: service.draining.is_draining,
    )
