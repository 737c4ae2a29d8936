"""Lessons as notebooks: valid, with the page's cells, and they run."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lessons import notebooks
from lessons.run import BLOCK, ROOT, are_alike, comparable, find, folders

CHEAP = [2]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Returns the notebooks by the names of their lessons."""
    folder = tmp_path_factory.mktemp("notebooks")
    assert notebooks.main(["--output", str(folder)]) == 0
    return {path.stem: path for path in folder.glob("*.ipynb")}


def outputs(cell) -> str:
    return "".join(one["text"] for one in cell.outputs if one.get("name") == "stdout")


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_a_notebook_is_valid_and_has_the_blocks_of_the_page(files, folder):
    notebook = nbformat.read(files[folder.name], as_version=4)
    nbformat.validate(notebook)
    page = (folder / "README.md").read_text()
    assert "make notebooks" in notebook.cells[0].source
    code = [cell for cell in notebook.cells[2:] if cell.cell_type == "code"]
    python = [cell for cell in code if not cell.source.startswith("%%bash")]
    blocks = list(BLOCK.finditer(page))
    assert [cell.source for cell in python] == [block[1].rstrip() for block in blocks]
    assert [outputs(cell) for cell in python] == [block[3] or "" for block in blocks]
    assert len(code) - len(python) == page.count("\n```bash\n")


def test_links_of_a_notebook_lead_to_the_same_files():
    notebook = notebooks.convert(find(3), ROOT / "notebooks")
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "](../lessons/03-why-the-kv-cache/step-time.svg)" in text
    assert "](../docs/glossary.md#kv-cache)" in text
    assert "](http://127.0.0.1:8000/#/engine)" in text


def test_a_bash_block_is_a_cell_of_the_shell(tmp_path):
    folder = tmp_path / "01-page"
    folder.mkdir()
    (folder / "README.md").write_text("# 1. Page\n\nText.\n\n```bash\nls\n```\n\nMore.\n")
    cells = notebooks.convert(folder, tmp_path).cells
    assert [cell.source for cell in cells[2:]] == ["Text.", "%%bash\nls", "More."]


@pytest.mark.server
@pytest.mark.parametrize("number", CHEAP)
def test_a_notebook_runs_and_prints_what_the_page_shows(number):
    notebook = notebooks.convert(find(number))
    shown = [outputs(cell) for cell in notebook.cells if cell.cell_type == "code"]
    NotebookClient(
        notebook, timeout=50, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, text in zip(cells, shown, strict=True):
        assert are_alike(comparable(outputs(cell)), comparable(text)), cell.source
    figures = [one for cell in cells for one in cell.outputs if one.output_type == "display_data"]
    assert figures
    assert all("image/svg+xml" in one.data for one in figures)
