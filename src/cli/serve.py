"""`serve`: the server, in the place of this process."""

import os
import sys
from typing import Annotated

import typer


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="MODEL_NAME: `storyteller` (bundled), a folder, a GGUF file, or a hub id.",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="HOST: address to listen on.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="N", help="PORT; 0 chooses a free one.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="WORKERS: number of processes.")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(metavar="N", help="MAX_MODEL_LEN: context length in tokens.")
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(metavar="NAME", help="QUANTIZATION on a CPU: none, fp16 or int8.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="LOG_LEVEL: DEBUG, INFO ...")
    ] = None,
) -> None:
    """Start the server, until Ctrl-C.

    Settings come from the environment and `.env`, as with `python -m src.main`; an option sets the
    setting of its name. docs/configuration.md lists all settings.
    """
    options = {
        "MODEL_NAME": model,
        "HOST": host,
        "PORT": port,
        "WORKERS": workers,
        "MAX_MODEL_LEN": max_model_len,
        "QUANTIZATION": quantization,
        "LOG_LEVEL": log_level,
    }
    chosen = {name: str(value) for name, value in options.items() if value is not None}
    # The same process, so that signals and exit statuses are the server's own.
    os.execve(  # noqa: S606 # nosec B606
        sys.executable, [sys.executable, "-m", "src.main"], os.environ | chosen
    )
