"""Each threat of docs/threat-model.md names at least one test, and the tests exist."""

import ast
import re

import pytest

from tests.support.servers import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text()
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
THREATS = [
    line
    for line in PAGE.splitlines()
    if line.startswith("|") and not re.match(r"\|(-|.*\| test \|)", line)
]


def names_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("threat", THREATS, ids=range(len(THREATS)))
def test_a_threat_names_existing_tests(threat):
    named = NAMED.findall(threat.split("|")[-2])
    assert named, threat
    for file, name in named:
        assert name.startswith("test_")
        assert name in names_of(file), f"{file} has no {name}"


def test_the_page_has_threats():
    assert len(THREATS) > 30
