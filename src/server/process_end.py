"""End of the process: everything is flushed, then the interpreter is left without its teardown.

The teardown collects all objects and unloads modules, which takes seconds after torch was loaded.
Meanwhile daemon threads may still run native code on objects that are already freed, for example
while a model loads; a crash there would replace the exit status.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from fastapi import FastAPI


def run_to_end(run: Callable[[], None], app: FastAPI) -> NoReturn:
    """Serves and ends the process with 0, or with the status that uvicorn exits with.

    Args:
        run: serves until the process is to end.
        app: that it serves.
    """
    status = 0
    try:
        run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        _stop(app)
    end_process(status)


def _stop(app: FastAPI) -> None:
    """Stops what the lifespan stops, which a forced end skips. Each step may be repeated."""
    app.state.engine.shutdown()
    app.state.usage.shutdown()
    if app.state.tracing is not None:
        app.state.tracing.shutdown()


def end_process(status: int) -> NoReturn:
    """Ends the process at once, after its logs are flushed.

    A SystemExit in a task would tear the server down around the others, and their tracebacks would
    bury the reason. Nothing is lost: no generation has been accepted yet, or all have been told.

    Args:
        status: STARTUP_FAILURE is what uvicorn, and its supervisor, take for a failed start.
    """
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
