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

from src.server.service import Service


def run_to_end(run: Callable[[], None], service: Service) -> NoReturn:
    """Serves and ends the process with 0, or with the status that uvicorn exits with.

    Args:
        run: serves until the process is to end.
        service: is shut down again, as a forced end skips the lifespan's shutdown.
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
    """Ends the process at once, after its logs are flushed.

    A SystemExit in a task would tear the server down around the others, and their tracebacks would
    bury the reason. Nothing is lost: no generation has been accepted yet, or all have been told.

    Args:
        status: STARTUP_FAILURE is what uvicorn, and its supervisor, take for a failed start.
    """
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
