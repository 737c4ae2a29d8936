"""Lifespan of the app: loads the model in the background, watches the engine, stops both.

A model that cannot be loaded, or a dead engine, ends the process: only a restart helps.
"""

import asyncio
import concurrent.futures
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from src.config import Settings
from src.errors import SettingsError, StartupError
from src.observability.event_loop_watchdog import EventLoopWatchdog
from src.server.batch_runner import run_batches
from src.server.graceful import FLUSH_SECONDS, POLL_SECONDS
from src.server.process_end import end_process
from src.server.service import Service, service_of
from src.server.startup_hints import log_hints

logger = logging.getLogger(__name__)

ENGINE_FAILURE = 1
"""Exit status of a process with a dead engine."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Runs the background tasks of an app while it serves, then shuts its parts down."""
    service = service_of(app)
    service.engine_watch = _start(_watch_engine(service))
    tasks = [_start(_load_and_watch(service)), service.engine_watch]
    if service.watched_keys is not None:
        tasks.append(_start(service.watched_keys.watch()))
    tasks.append(_start(service.rate_limit.watch()))
    batches = _start(run_batches(app))
    if service.wait_for_model:
        await _wait_for_model(service)
    yield
    gc.unfreeze()
    await _end(batches)
    for task in tasks:
        task.cancel()
    await asyncio.to_thread(service.shutdown)
    await service.rate_limit.close()
    await service.jobs.close()


def _start(background: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Starts a background task; a fault of it is logged."""
    task = asyncio.create_task(background)
    task.add_done_callback(_log_fault)
    return task


async def _end(task: asyncio.Task[None]) -> None:
    """Cancels a task and waits until it has cleaned up."""
    task.cancel()
    await asyncio.wait([task])


def _log_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("a background task of the service failed", exc_info=error)


async def _load_and_watch(service: Service) -> None:
    """Loads the model, then measures the event loop: imports of large libraries hold it before."""
    await _load_model(service)
    await EventLoopWatchdog(service.http_metrics.loop_lag).watch()


async def _load_model(service: Service) -> None:
    engine = service.engine
    logger.info("loading the model", extra={"model": service.settings.model_name})
    try:
        check_context_length = partial(_check_default_length, service.settings)
        await _in_daemon_thread(lambda: engine.load_model(check_context_length))
        _mark_loaded(service)
        # A full collection visits every object, those of the libraries and the model too, and takes
        # half a second. Frozen objects are left out; they live as long as the process anyway.
        gc.freeze()
    except StartupError as error:
        logger.critical("cannot start: %s", error)
        end_process(STARTUP_FAILURE)
    except Exception:
        logger.critical("cannot start: loading the model failed", exc_info=True)
        end_process(STARTUP_FAILURE)
    logger.info("ready to serve", extra={"model": ", ".join(engine.names.served)})
    if service.url:
        log_hints(service.url, engine, service.settings)


def _mark_loaded(service: Service) -> None:
    model_name = service.engine.model_name  # may be the fallback's
    service.engine_metrics.model_name = model_name
    if service.tracing is not None:
        service.tracing.model_name = model_name
    service.http_metrics.max_live.set(service.engine.max_live)
    # A scrape sets it too, but only in the worker that answers it.
    service.http_metrics.ready.set(1)
    service.is_loaded = True


async def _wait_for_model(service: Service) -> None:
    """Returns when the model is loaded, or a signal ends the process before."""
    while not service.is_loaded and not service.draining.is_draining:  # noqa: ASYNC110 - a signal
        await asyncio.sleep(POLL_SECONDS)


async def _watch_engine(service: Service) -> None:
    """Ends the process when the engine is dead."""
    await service.engine.wait_until_dead(service.settings.hang_timeout_seconds)
    service.http_metrics.ready.set(0)
    logger.critical("the engine is dead: the process ends")
    await asyncio.sleep(FLUSH_SECONDS)
    end_process(ENGINE_FAILURE)


def _check_default_length(settings: Settings, max_model_len: int) -> None:
    """Raises SettingsError if MAX_LENGTH would fail every request that leaves `max_length` out."""
    if settings.max_length >= max_model_len:
        raise SettingsError(
            f"MAX_LENGTH={settings.max_length} new tokens leave no room for a prompt in the model's"
            f" context of {max_model_len} tokens. Set it lower."
        )


async def _in_daemon_thread(function: Callable[[], None]) -> None:
    """Like `asyncio.to_thread`, but the process may end before the function does."""
    future: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            function()
            future.set_result(None)
        except BaseException as error:  # noqa: BLE001 - raised where the future is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="load-model", daemon=True).start()
    await asyncio.wrap_future(future)
