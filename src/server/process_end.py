"""End of the process: flushes everything, then skips the interpreter's teardown.

The teardown frees all objects and unloads modules, which takes seconds after torch was loaded.
Daemon threads may still run native code on freed objects meanwhile, for example while a model
loads. A crash there would replace the exit status.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from src.server.service import Service


def run_to_end(run: Callable[[], None], service: Service) -> NoReturn:
    """Serves, then ends the process with 0, or with uvicorn's exit status.

    Args:
        run: serves until a signal.
        service: shut down afterwards; a forced end skips the lifespan's shutdown.
    """
    status = 0
    try:
        run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        service.shutdown()
    end_process(status)


def end_process(status: int) -> NoReturn:
    """Ends the process at once, after flushing its logs.

    SystemExit in a task would cancel all others, and their tracebacks would bury the reason. No
    answer is lost: no request has been accepted yet, or all have been answered.

    Args:
        status: exit status; STARTUP_FAILURE tells the supervisor that a restart would fail too.
    """
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
