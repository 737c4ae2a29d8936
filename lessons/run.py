"""Runs the code of a lesson's page and compares its output: `python -m lessons.run 3 [--write]`.

The Python blocks of a page run in order, in one namespace. A `text` block right after a Python
block is its output, which `--write` updates. One rule for measurements: a number after `≈` depends
on the machine, so its value is not compared. Everything else must be equal, but for runs of spaces
and the last digit of decimal fractions, in which processors may differ.

Pages call `save(name, svg)` for a figure. It is written beside the page with `--write`, else into
the lesson's folder `yours/`, which git ignores.
"""

import argparse
import contextlib
import io
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.engine.model.runtime_env import torch_environment

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"^```python\n(.*?)^```\n(?P<shown>\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL
)
MEASURED = re.compile(r"≈\s*[\d.,]+")
FRACTION = re.compile(r"-?\d+\.\d+")


@dataclass(frozen=True, slots=True)
class Result:
    """A Python block of a page that ran.

    Args:
        line: number of its first line of code.
        end: position of its end in the page's text.
        shown_end: position of the end of the output block after it, or else `end`.
        shown: text of that block, or else empty.
        output: text that the code printed.
    """

    line: int
    end: int
    shown_end: int
    shown: str
    output: str

    @property
    def is_as_shown(self) -> bool:
        return are_alike(comparable(self.output), comparable(self.shown))


def folders() -> list[Path]:
    """Returns the folders of all lessons, in order."""
    return sorted(path.parent for path in ROOT.glob("lessons/[0-9][0-9]-*/README.md"))


def find(number: int) -> Path:
    """Returns the folder of a lesson.

    Raises:
        SystemExit: there is no such lesson.
    """
    for folder in folders():
        if folder.name.startswith(f"{number:02}-"):
            return folder
    numbers = ", ".join(str(int(folder.name[:2])) for folder in folders())
    raise SystemExit(f"There is no lesson {number}; there are {numbers}.")


def comparable(text: str) -> str:
    """Returns an output without measured numbers and runs of spaces."""
    lines = MEASURED.sub("≈", text).splitlines()
    return "\n".join(" ".join(line.split()) for line in lines).strip()


def are_alike(one: str, other: str) -> bool:
    """Compares two outputs; their decimal fractions may differ by one in the last digit."""
    if FRACTION.sub("", one) != FRACTION.sub("", other):
        return False
    return all(
        len(a) == len(b) and abs(float(a) - float(b)) < 1.5 * 10 ** -len(a.partition(".")[2])
        for a, b in zip(FRACTION.findall(one), FRACTION.findall(other), strict=True)
    )


def run(folder: Path, figures: Path, *, verbose: bool = False) -> list[Result]:
    """Runs the blocks of a lesson's page in the project's root; figures go into a folder."""

    def save(name: str, svg: str) -> None:
        figures.mkdir(exist_ok=True)
        (figures / name).write_text(svg)

    page = folder / "README.md"
    text = page.read_text()
    namespace: dict[str, Any] = {"__name__": "lesson", "save": save}
    results: list[Result] = []
    with contextlib.chdir(ROOT):
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start(1))
            # Empty lines before the code give tracebacks the page's line numbers.
            code = compile("\n" * line + block[1], page, "exec")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, namespace)
            output = printed.getvalue()
            if verbose:
                print(f"--- README.md, line {line + 1}\n{output}", end="", flush=True)
            end = block.end() - len(block["shown"] or "")
            results.append(Result(line + 1, end, block.end(), block[3] or "", output))
    return results


def write(page: Path, results: list[Result]) -> None:
    """Puts the outputs into a page."""
    text = page.read_text()
    for result in reversed(results):
        output = result.output.rstrip()
        shown = f"\n```text\n{output}\n```\n" if output else ""
        text = text[: result.end] + shown + text[result.shown_end :]
    page.write_text(text)


def report(folder: Path, results: list[Result]) -> int:
    """Prints the outputs that differ from the page; returns their number."""
    different = [result for result in results if not result.is_as_shown]
    for result in different:
        print(f"!!! {folder.name}/README.md:{result.line} shows\n{result.shown}", end="")
        print(f"but printed\n{result.output}", end="")
    return len(different)


def main(arguments: list[str]) -> int:
    """Runs a lesson, or all; returns 1 if an output differs from its page."""
    parser = argparse.ArgumentParser(prog="python -m lessons.run")
    parser.add_argument("number", type=int, nargs="?", help="of the lesson; without it all run")
    parser.add_argument("--write", action="store_true", help="write the outputs into the page")
    chosen = parser.parse_args(arguments)
    os.environ.update(torch_environment("auto") | os.environ)  # before torch is imported
    is_one, num_different = chosen.number is not None, 0
    for folder in [find(chosen.number)] if is_one else folders():
        started = time.perf_counter()
        results = run(folder, folder if chosen.write else folder / "yours", verbose=is_one)
        seconds = time.perf_counter() - started
        if chosen.write:
            write(folder / "README.md", results)
            verdict = "written"
        else:
            num_different += (number := report(folder, results))
            verdict = f"{number} differ from the page" if number else "as on the page"
        print(f"{folder.name}: {len(results)} blocks in {seconds:.1f} s, {verdict}", flush=True)
    return 1 if num_different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
