"""The Celery app: `celery -A src.celery_queue.app worker`. It loads no model.

Server and workers agree in BATCH_BROKER_URL alone. Task events are on, so Flower and
`celery events` show the work.
"""

import asyncio
import sys

from celery import Celery

from src.celery_queue.chunk_worker import ChunkTask, WorkerOptions, answer_chunk
from src.celery_queue.keys import QUEUE, TASK
from src.config import Settings, load_settings
from src.errors import SettingsError

CONNECT_SECONDS = 3
GRACE_SECONDS = 60
"""Time after a chunk's deadline at which its process is ended, and its message comes back."""


def create_celery(broker_url: str, chunk_seconds: int) -> Celery:
    """Creates an app for a broker.

    Args:
        broker_url: of Redis.
        chunk_seconds: longest work on a chunk.
    """
    celery = Celery("llm_inference", broker=broker_url, set_as_current=False)
    celery.conf.update(
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            # A message that is not acknowledged by then goes to another worker, so no chunk may
            # take longer.
            "visibility_timeout": chunk_seconds + 2 * GRACE_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_send_sent_event=True,
        task_serializer="json",
        accept_content=["json"],
        task_time_limit=chunk_seconds + GRACE_SECONDS,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return celery


def worker_options(settings: Settings) -> WorkerOptions:
    """Returns the options of a worker.

    Raises:
        SettingsError: BATCH_BROKER_URL is not set.
    """
    if settings.batch_broker_url is None:
        raise SettingsError(
            "A worker needs BATCH_BROKER_URL, the Redis of its server, such as"
            " redis://localhost:6379/0."
        )
    return WorkerOptions(
        settings.batch_broker_url,
        settings.batch_service_url,
        settings.batch_concurrency,
        settings.batch_chunk_seconds,
        settings.timeout_seconds + GRACE_SECONDS,
    )


def create_worker(settings: Settings) -> Celery:
    """Creates the app of a worker; raises SettingsError as `worker_options`."""
    options = worker_options(settings)
    celery = create_celery(options.broker_url, settings.batch_chunk_seconds)

    @celery.task(name=TASK)  # type: ignore[untyped-decorator]
    def answer(chunk_id: str, server_id: str, path: str) -> None:
        """Answers the lines of a chunk."""
        asyncio.run(answer_chunk(ChunkTask(chunk_id, server_id, path), options))

    return celery


def __getattr__(name: str) -> Celery:
    """Creates `app` when Celery's command asks for it: the server needs no worker."""
    if name not in ("app", "celery"):
        raise AttributeError(name)
    try:
        worker = create_worker(load_settings())
    except SettingsError as error:
        sys.exit(str(error))
    globals()["app"] = globals()["celery"] = worker
    return worker
