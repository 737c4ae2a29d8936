"""Runs the server in this process, or in several workers, until a signal.

SIGTERM and SIGINT begin a graceful shutdown (`graceful`). SIGHUP does the same to a single process;
a supervisor replaces its workers in turn (`supervisor`).
"""

import errno
import logging
import math
import os
import signal
import socket
import sys
import tempfile

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import ChangeReload

from src.config import Settings
from src.errors import StartupError
from src.limits.storage import MEMORY
from src.observability.http_metrics import MULTIPROC_DIR
from src.server.connection import connection_class
from src.server.graceful import FLUSH_SECONDS, Server
from src.server.process_end import end_process, run_to_end
from src.server.service import service_of
from src.server.startup_hints import local_url
from src.server.supervisor import Supervisor
from src.server.worker import APP

logger = logging.getLogger(__name__)


def serve(app: FastAPI) -> None:
    """Serves until SIGTERM or SIGINT, then ends the process.

    Exit statuses: 0 after a signal, 1 if the address cannot be bound, 3 if the model cannot be
    loaded.
    """
    service = service_of(app)
    settings = service.settings
    try:
        check_address(settings.host, settings.port)
    except StartupError as error:
        logger.critical("cannot start: %s", error)
        sys.exit(1)
    config = _server_config(app, settings)
    if settings.reload:
        ChangeReload(
            config, target=uvicorn.Server(config).run, sockets=[config.bind_socket()]
        ).run()
    elif settings.workers > 1:
        end_process(_serve_with_workers(config, settings))
    else:
        service.url = local_url(settings)
        _serve_alone(Server(config, service))


def check_address(host: str, port: int) -> None:
    """Binds each socket that the server will listen on, and closes it again.

    Raises:
        StartupError: the port is in use, or the address is not this machine's.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in addresses:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server's
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        raise StartupError(_bind_failure(host, port, error)) from error


def _bind_failure(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use by another process. Stop that process, or set PORT to"
            " another port (0 chooses a free one)."
        )
    if error.errno == errno.EACCES:
        return f"PORT={port} needs privileges that this process lacks. Set PORT to 1024 or more."
    reason = error.strerror or error
    return (
        f"HOST={host} with PORT={port} cannot be bound ({reason}). Set HOST to an address of this"
        " machine; 0.0.0.0 is all of them."
    )


def _serve_alone(server: Server) -> None:
    # uvicorn raises the signal again after its shutdown, which would kill this process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # set by nohup
        signal.signal(signal.SIGHUP, server.handle_exit)
    run_to_end(server.run, server.service)


def _server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app if settings.workers == 1 and not settings.reload else APP,
        host=settings.host,
        port=settings.port,
        reload=settings.reload,
        workers=settings.workers,
        log_config=None,
        access_log=False,
        server_header=False,
        http=connection_class(settings, service_of(app).policies),
        ws="none",
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=settings.shutdown_grace_seconds + FLUSH_SECONDS,
        # uvicorn's default of 5 seconds would kill workers that start slowly on a busy machine.
        timeout_worker_healthcheck=math.ceil(settings.hang_timeout_seconds),
    )


def _serve_with_workers(config: uvicorn.Config, settings: Settings) -> int:
    """Returns the exit status."""
    if settings.rate_limit_storage == MEMORY:
        _warn_of_separate_counters(settings)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[MULTIPROC_DIR] = folder
        supervisor = Supervisor(config)
        supervisor.run()
    return STARTUP_FAILURE if supervisor.has_failed_to_start else 0


def _warn_of_separate_counters(settings: Settings) -> None:
    if settings.rate_limit_concurrent is not None or settings.auth == "api_key":
        logger.warning(
            "concurrent requests (RATE_LIMIT_CONCURRENT and the keys' limits) are counted in each"
            " worker: %d workers accept up to %d times as many",
            settings.workers,
            settings.workers,
        )
    logger.warning(
        "rate limits are counted in each worker: %d workers accept up to %d times the limit; set"
        " RATE_LIMIT_STORAGE=redis://... to count them together",
        settings.workers,
        settings.workers,
    )
