"""The commands, and the end of the process: its exit status, and errors as sentences.

Exit statuses: 0, 1 for a failure, 2 for wrong arguments, 130 after Ctrl-C. A closed pipe ends a
command without a message, with 1.
"""

import sys
from typing import Annotated

import typer

from src import __version__
from src.cli.batch import batch
from src.cli.bench import bench
from src.cli.chat import chat
from src.cli.generate import generate
from src.cli.keys import keys_app
from src.cli.models import models_app
from src.cli.serve import serve
from src.cli.terminal import complain
from src.cli.usage import usage
from src.errors import ServiceError

HELP = """Serve a language model, talk to it, and measure it.

Start a server with `serve`, then open `chat` in another terminal. The other commands work with any
OpenAI-compatible server too. Details and examples: docs/cli.md.
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(rich_help_panel="Server")(serve)
app.command(rich_help_panel="Use")(chat)
app.command(rich_help_panel="Use")(generate)
app.command(rich_help_panel="Use")(batch)
app.command(rich_help_panel="Use")(bench)
app.add_typer(models_app, name="models", rich_help_panel="Server")
app.add_typer(keys_app, name="keys", rich_help_panel="Server")
app.command(rich_help_panel="Server")(usage)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Reads the options that stand before a command."""


def main() -> None:
    """Runs the command of this process's arguments and ends the process with its status."""
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:
        _complain_of_arguments(error)
        sys.exit(error.exit_code)
    except ServiceError as error:
        complain(str(error))
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:  # noqa: BLE001 - users get a sentence, not a traceback
        complain(f"This is a defect of the program: {type(error).__name__}: {error}")
    sys.exit(1)


def _complain_of_arguments(error: typer.TyperException) -> None:
    """Prints wrong arguments as a sentence with the help to ask for; nothing after a help page."""
    context = getattr(error, "ctx", None)
    hint = f" `{context.command_path} --help` explains it." if context is not None else ""
    message = error.format_message().strip()
    if message:
        complain(message.rstrip(".") + "." + hint)
