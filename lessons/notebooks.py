"""Writes the lessons as Jupyter notebooks: `python -m lessons.notebooks [--output FOLDER]`.

A `python` block becomes a cell, with the page's output below it; a `bash` block becomes a `%%bash`
cell; the rest is text. So a notebook has the page's names in the page's order.
"""

import argparse
import os
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lessons.run import ROOT, folders

OUTPUT = ROOT / "notebooks"
CELL = re.compile(
    r"^```(?P<kind>python|bash)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")
START = """This is lesson {number} as a notebook. To open it, run in the project's folder

    make notebooks
    .venv/bin/python -m pip install jupyterlab    # or: uv pip install jupyterlab
    .venv/bin/jupyter lab notebooks/{name}.ipynb

and run the cells from the top. The next cell goes to the project's folder and defines `save`, which
shows a figure. The outputs are those of the page; yours replace them."""
SETUP = '''import os
import sys
from pathlib import Path

from IPython.display import SVG, display

root = next(one for one in (Path.cwd(), *Path.cwd().parents) if (one / "lessons/run.py").exists())
os.chdir(root)
sys.path.insert(0, str(root))


def save(name, svg):
    """Shows a figure, and writes it into the lesson's folder `yours`."""
    folder = Path("lessons/{name}/yours")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(svg)
    display(SVG(svg))'''

ASYNCIO = """

# A notebook's cells run in an event loop already, so `asyncio.run` gets one in a thread.
import asyncio
from concurrent.futures import ThreadPoolExecutor

_run = asyncio.run
asyncio.run = lambda *given, **named: ThreadPoolExecutor().submit(_run, *given, **named).result()"""


def convert(folder: Path, output: Path = OUTPUT) -> NotebookNode:
    """Returns a lesson's page as a notebook, with links as they are from a folder."""
    text = (folder / "README.md").read_text()
    first_heading = text.index("\n\n", text.index("# "))
    cells = [new_markdown_cell(text[:first_heading].strip() + "\n\n" + _start(folder))]
    cells.append(new_code_cell(_setup(folder, text)))
    at = first_heading
    for block in CELL.finditer(text, at):
        cells += _texts(text[at : block.start()], folder, output)
        cells.append(_code(block))
        at = block.end()
    cells += _texts(text[at:], folder, output)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the same in each run
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def _start(folder: Path) -> str:
    return START.format(number=int(folder.name[:2]), name=folder.name)


def _setup(folder: Path, text: str) -> str:
    needs_thread = "asyncio.run(" in text
    return SETUP.replace("{name}", folder.name) + (ASYNCIO if needs_thread else "")


def _code(block: re.Match[str]) -> NotebookNode:
    code = block["code"].rstrip()
    if block["kind"] == "bash":
        return new_code_cell(f"%%bash\n{code}")
    shown = block["shown"]
    outputs = [new_output("stream", name="stdout", text=shown)] if shown else []
    return new_code_cell(code, outputs=outputs)


def _texts(text: str, folder: Path, output: Path) -> list[NotebookNode]:
    """Returns a cell for the text between two blocks, unless it is empty."""

    def point(match: re.Match[str]) -> str:
        target, mark, anchor = match[1].partition("#")
        path = os.path.relpath((folder / target).resolve(), output.resolve())
        return f"]({path}{mark}{anchor})"

    text = LINK.sub(point, text).strip()
    return [new_markdown_cell(text)] if text else []


def write(output: Path) -> list[Path]:
    """Writes all lessons into a folder, and returns the files."""
    output.mkdir(parents=True, exist_ok=True)
    files = []
    for folder in folders():
        notebook = convert(folder, output)
        nbformat.validate(notebook)
        file = output / f"{folder.name}.ipynb"
        nbformat.write(notebook, file)
        files.append(file)
    return files


def main(arguments: list[str]) -> int:
    """Writes the notebooks."""
    parser = argparse.ArgumentParser(prog="python -m lessons.notebooks")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    files = write(parser.parse_args(arguments).output)
    print(f"{len(files)} notebooks in {files[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
