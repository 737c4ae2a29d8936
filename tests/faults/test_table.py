"""The table of faults is whole and current: a test for each row, and a row for each test."""

import ast
import json
from pathlib import Path

from docs.generate import DOCS
from tests.faults.table import ANSWERS, FOLDER, GROUPS, faults_table

ROWS = [row for rows in GROUPS.values() for row in rows]
NUM_ROWS = 50


def shown_by(path: Path) -> list[tuple[int, str, str]]:
    """Returns row number, module and name of each test that measures."""
    return [
        (call.args[0].value, path.stem, function.name)
        for function in ast.parse(path.read_text()).body
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "measured"
    ]


def test_each_row_has_its_test_and_each_test_its_row():
    found = [one for path in FOLDER.glob("test_*.py") for one in shown_by(path)]
    assert sorted(found) == sorted((row.number, row.module, row.test) for row in ROWS)
    assert {row.number for row in ROWS} == set(range(1, NUM_ROWS + 1))
    assert len(ROWS) == NUM_ROWS


def test_each_row_was_measured():
    assert list(json.loads(ANSWERS.read_text())) == [str(n) for n in range(1, NUM_ROWS + 1)]


def test_the_table_in_the_docs_is_current():
    assert faults_table() in (DOCS / "reliability.md").read_text()
