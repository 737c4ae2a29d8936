"""Checks a reader's answer to a lesson's exercise: `python -m lessons.exercise 3 [--solution]`.

A lesson's folder has `exercise.py` with the task, `solution.py` with an answer, and `check.py` with
a function `check`. That gets the names which the answer defines, and asserts what they must do.
"""

import argparse
import contextlib
import runpy
import sys
import traceback
from pathlib import Path

from lessons.run import ROOT, find


def check(folder: Path, file: str = "exercise.py") -> None:
    """Checks an answer.

    Args:
        folder: of the lesson.
        file: name of the file with the answer.

    Raises:
        NotImplementedError: there is no answer yet.
        AssertionError: the answer is wrong; the message says in which case.
    """
    with contextlib.chdir(ROOT):
        answer = runpy.run_path(str(folder / file), run_name="answer")
        runpy.run_path(str(folder / "check.py"))["check"](answer)


def describe(error: Exception, file: Path) -> str:
    """Returns an unexpected exception in one line, with its place in the reader's file."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return text
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == str(file)]
    if frames and frames[-1].name != "<module>":
        return f"Line {frames[-1].lineno} raises {text}"
    if frames:
        return f"Line {frames[-1].lineno} raises {text}, when the file is read."
    return f"The check cannot use what your code returns ({text}). Does it return what it should?"


def main(arguments: list[str]) -> int:
    """Checks the answer to a lesson's exercise; returns 1 if it is missing or wrong."""
    parser = argparse.ArgumentParser(prog="python -m lessons.exercise")
    parser.add_argument("number", type=int, help="of the lesson")
    parser.add_argument("--solution", action="store_true", help="check solution.py instead")
    chosen = parser.parse_args(arguments)
    folder = find(chosen.number)
    file = "solution.py" if chosen.solution else "exercise.py"
    name = (folder / file).relative_to(ROOT)
    try:
        check(folder, file)
    except NotImplementedError:
        print(f"{name}: no answer yet. The task is in the file and at the end of its lesson.")
    except AssertionError as error:
        print(f"{name}: not yet. {error}")
    except Exception as error:  # noqa: BLE001 - the answer is a reader's code
        print(f"{name}: not yet. {describe(error, folder / file)}")
    else:
        print(f"{name}: right.")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
