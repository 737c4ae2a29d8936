"""Links, anchors and files that the pages name exist; the glossary explains terms in short."""

import re
from pathlib import Path

import pytest

from tests.docs.test_readme import PAGES, README
from tests.support.house import CORE_PATH, num_lines
from tests.support.servers import ROOT

LINK = re.compile(r"\]\(\s*([^)\s]*?)(?:#([^)\s]+))?\s*\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SOURCE_FILE = re.compile(r"`([\w/]+\.(?:py|h|cpp))`")
ANCHOR = re.compile(r'<a id="([^"]+)"></a>')
ENTRY = re.compile(r'^<a id="[^"]+"></a>\*\*(.+?)\.\*\* (.+?)\n\n', re.MULTILINE | re.DOTALL)
GLOSSARY = ENTRY.findall((ROOT / "docs" / "glossary.md").read_text() + "\n")


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page: of headings, as GitHub makes them, and its own."""
    text = FENCE.sub("", page.read_text())
    headings = [heading.lower() for heading in HEADING.findall(text)]
    named = {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}
    return named | set(ANCHOR.findall(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_anchors_of_links_exist(page: Path):
    for target, anchor in LINK.findall(page.read_text()):
        if anchor and not target.startswith("http"):
            assert anchor in anchors(page.parent / target if target else page), anchor


@pytest.mark.parametrize("name", ["architecture.md", "engine.md"])
def test_source_files_named_by_a_page_exist(name: str):
    paths = [f"/{path.relative_to(ROOT)}" for path in ROOT.joinpath("src").rglob("*.*")]
    paths += [f"/{path.relative_to(ROOT)}" for path in ROOT.glob("*/*/*.py")]
    paths += [f"/{path.relative_to(ROOT)}" for path in ROOT.glob("*/*.py")]
    named = SOURCE_FILE.findall((ROOT / "docs" / name).read_text())
    assert named
    for file in named:
        assert any(path.endswith(f"/{file}") for path in paths), file


def test_the_glossary_is_sorted_and_each_entry_is_short_and_links_to_code():
    assert len(GLOSSARY) >= 40
    terms = [term.lower() for term, _ in GLOSSARY]
    assert terms == sorted(terms)
    ids = ANCHOR.findall((ROOT / "docs" / "glossary.md").read_text())
    assert len(set(ids)) == len(ids) == len(GLOSSARY)
    for term, text in GLOSSARY:
        explanation, _, link = text.replace("\n", " ").rpartition(" ")
        assert re.fullmatch(r"\[code\]\(\.\./src/.+\)", link), term
        assert len(re.findall(r"\.(?: |$)", explanation.replace("et al. ", ""))) <= 2, term


def test_the_readme_gives_the_length_of_the_core_path():
    (shown,) = re.findall(r"is about ([\d,]+) lines", README)
    assert num_lines(*CORE_PATH) == pytest.approx(int(shown.replace(",", "")), rel=0.1)
