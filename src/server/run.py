"""Runs the app in this process, or in several, from the first connection to the end.

A process that is to end is told by SIGTERM or SIGINT: it refuses what comes and answers what runs,
so long as the grace lasts. SIGHUP is the same to a process that is alone; of several it replaces
one after another (`workers`).
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
    """Serves until SIGTERM or SIGINT, then ends the process with 0.

    Ends it with 1 if it cannot listen, before a model is loaded, and with 3 if it cannot start.
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
    """Tries to bind each socket that the server will listen on, and closes it again.

    Raises:
        StartupError: another process has the port, or the address is none of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server's
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        raise StartupError(_why_not_bound(host, port, error)) from error


def _why_not_bound(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use by another process. End that, or set PORT to"
            " another one (0 is any that is free)."
        )
    if error.errno == errno.EACCES:
        return f"PORT={port} needs more rights than this process has. Set PORT to 1024 or more."
    return f"HOST={host} with PORT={port} cannot be listened on ({error.strerror or error})."


def _serve_alone(server: Server) -> None:
    # uvicorn raises the signal that ended it once more when it is done; to us that is no news.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which nohup wants
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
        # uvicorn's 5 seconds would kill a worker that is slow to start, or on a busy machine.
        timeout_worker_healthcheck=math.ceil(settings.hang_timeout_seconds),
    )


def _serve_with_workers(config: uvicorn.Config, settings: Settings) -> int:
    """Returns the exit status."""
    if settings.rate_limit_storage == MEMORY:
        _warn_of_separate_counts(settings)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[MULTIPROC_DIR] = folder
        supervisor = Supervisor(config)
        supervisor.run()
    return STARTUP_FAILURE if supervisor.has_failed_to_start else 0


def _warn_of_separate_counts(settings: Settings) -> None:
    if settings.rate_limit_concurrent is not None or settings.auth == "api_key":
        logger.warning(
            "requests at the same time (RATE_LIMIT_CONCURRENT, and what keys have in its place) are"
            " counted in each worker: %d workers let through up to %d times as many",
            settings.workers,
            settings.workers,
        )
    logger.warning(
        "rate limits are counted in each worker: %d workers let through up to %d times the"
        " limit; RATE_LIMIT_STORAGE=redis://... counts them together",
        settings.workers,
        settings.workers,
    )
