"""The runner of batches in a server's process: from the first file to the shutdown."""

import asyncio
import logging

from fastapi import FastAPI

from src.errors import ServiceError
from src.jobs.access import Jobs
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
    """Runs batches until cancelled; waits for the model and for the first file before."""
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
    runner = Runner(
        jobs,
        InternalRoute(app),
        _options(service),
        service.engine.model_name,
        service.batch_metrics,
    )
    service.jobs.wake = runner.wake
    await runner.run()


async def _open(service: Service) -> Jobs:
    """Opens BATCH_DIR; tries again until it can be used."""
    while True:
        try:
            return await service.jobs.open()
        except ServiceError as error:
            logger.error("batches wait: %s", error, exc_info=error.__cause__)
            await asyncio.sleep(RETRY_SECONDS)


def _options(service: Service) -> RunOptions:
    settings = service.settings
    return RunOptions(
        max_lines=settings.batch_max_lines,
        max_line_bytes=settings.max_body_bytes,
        concurrency=settings.batch_concurrency,
        is_served=lambda name: name in service.engine.names,
        is_stopping=lambda: service.draining.is_draining,
    )
