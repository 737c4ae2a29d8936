"""Output of the commands: answers to standard output, all else to standard error."""

import re
import sys

from rich.console import Console

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters except tab and newline: a model's text could steer a terminal with them."""

WIDEST = 200  # columns of a table that goes to a file or a pipe


def complain(message: str) -> None:
    """Prints the sentence of a failure to standard error."""
    Console(stderr=True).out(f"Error: {message}", style="red", highlight=False)


def output() -> Console:
    """Returns the console of standard output."""
    width = None if sys.stdout.isatty() else WIDEST
    return Console(highlight=False, markup=False, width=width)


def notes() -> Console:
    """Returns the console of standard error, for progress and remarks."""
    return Console(stderr=True, highlight=False, markup=False)


def write(console: Console, text: str, style: str | None = None) -> None:
    """Writes part of an answer as it is; control characters do not reach a terminal."""
    if console.is_terminal:
        text = CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)
    console.out(text, style=style, end="", highlight=False)
