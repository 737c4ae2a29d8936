"""Lessons run and print what their pages show; exercises accept solutions and nothing less."""

import re
import shutil
from pathlib import Path

import pytest

from lessons import exercise
from lessons.figures import bars, flow, lines, timeline
from lessons.run import ROOT, are_alike, comparable, find, folders, report, run, write

FOLDERS = folders()
IDS = [folder.name for folder in FOLDERS]


def starts_servers(folder: Path) -> bool:
    return "from lessons.servers import" in (folder / "README.md").read_text()


PAGES = [
    pytest.param(
        folder, id=folder.name, marks=[pytest.mark.server] if starts_servers(folder) else []
    )
    for folder in FOLDERS
]
GLOSSARY_ENTRY = re.compile(r'<a id="([^"]+)"></a>\*\*(.+?)\.\*\*')
GLOSSARY_LINK = re.compile(r"\[([^\]]+)\]\(\.\./\.\./docs/glossary\.md(?:#([\w-]+))?\)")
PAGE = """# 9. Sums

```python
total = 1 + 1
```

```python
print(total)
print("≈ 3.5 s")
```

```text
2
≈ 1.25 s
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Returns a page of two blocks."""
    path = tmp_path / "README.md"
    path.write_text(PAGE)
    return path


@pytest.mark.parametrize("folder", PAGES)
def test_a_page_prints_what_it_shows(folder: Path, tmp_path: Path):
    results = run(folder, tmp_path)
    assert [(one.line, one.output) for one in results if not one.is_as_shown] == []
    figures = {path.name for path in tmp_path.iterdir()}
    assert figures
    assert figures == {path.name for path in folder.glob("*.svg")}
    for name in figures:
        assert f"]({name})" in (folder / "README.md").read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_an_exercise_accepts_its_solution_and_not_the_task(folder: Path):
    exercise.check(folder, "solution.py")
    with pytest.raises(NotImplementedError):
        exercise.check(folder)


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_a_page_has_terms_questions_and_an_exercise(folder: Path):
    text = (folder / "README.md").read_text()
    number = int(folder.name[:2])
    assert text.startswith(f"# {number}. ")
    assert f"make lesson N={number}`" in text
    assert f"make exercise N={number}`" in text
    assert "](../../docs/glossary.md#" in text
    assert text.count("<details>") == text.count("</details>") == 3
    assert "](../../src/" in text
    index = (ROOT / "lessons" / "README.md").read_text()
    assert f"[{text.splitlines()[0][2:]}]({folder.name}/README.md)" in index


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_linked_terms_reach_their_entry_of_the_glossary(folder: Path):
    entries = dict(GLOSSARY_ENTRY.findall((ROOT / "docs" / "glossary.md").read_text()))
    links = GLOSSARY_LINK.findall((folder / "README.md").read_text())
    assert links
    for term, anchor in links:
        words = re.sub(r"\s+", " ", term).lower().partition(" (")[0]
        assert words.removesuffix("s") in entries[anchor].lower(), term


def test_a_measured_number_is_not_compared_and_all_else_is(page: Path):
    results = run(page.parent, page.parent)
    assert [result.is_as_shown for result in results] == [True, True]
    page.write_text(PAGE.replace("\n2\n", "\n3\n"))
    different = [result for result in run(page.parent, page.parent) if not result.is_as_shown]
    assert [result.line for result in different] == [8]
    assert comparable("a ≈  12.5 ms\n") == comparable("a ≈ 3 ms")
    assert comparable("a ≈ 12.5 ms") != comparable("a ≈ 12.5 s")
    assert are_alike("a 0.131, 7", "a 0.132, 7")
    for other in ("a 0.133, 7", "a 0.13, 7", "b 0.131, 7", "a 0.131, 8", "a 0.131"):
        assert not are_alike("a 0.131, 7", other)


def test_a_page_without_the_output_of_a_block_differs(page: Path, capsys: pytest.CaptureFixture):
    page.write_text(PAGE[: PAGE.index("```text")])
    assert report(page.parent, run(page.parent, page.parent)) == 1
    assert "≈ 3.5 s" in capsys.readouterr().out


def test_write_puts_outputs_into_the_page(page: Path):
    written = PAGE.replace("≈ 1.25 s", "≈ 3.5 s")
    for before in (PAGE, PAGE[: PAGE.index("\n```text")]):
        page.write_text(before)
        write(page, run(page.parent, page.parent))
        assert page.read_text() == written


def test_an_error_names_the_line_of_the_page(page: Path):
    page.write_text(PAGE.replace("print(total)", "print(totl)"))
    with pytest.raises(NameError) as raised:
        run(page.parent, page.parent)
    assert raised.traceback[-1].lineno + 1 == 8
    assert str(page) in str(raised.traceback[-1].path)


def test_an_unknown_lesson_is_refused():
    with pytest.raises(SystemExit, match="no lesson 99"):
        find(99)


def test_the_commands_say_what_is_missing(capsys: pytest.CaptureFixture):
    assert exercise.main(["4"]) == 1
    assert "no answer yet" in capsys.readouterr().out
    assert exercise.main(["4", "--solution"]) == 0
    assert "solution.py: right." in capsys.readouterr().out


def test_a_wrong_answer_is_told_the_case(tmp_path: Path):
    folder = find(7)
    for name in ("check.py", "exercise.py"):
        (tmp_path / name).write_text((folder / name).read_text())
    wrong = (folder / "solution.py").read_text().replace("[: num_right + 1]", "")
    (tmp_path / "exercise.py").write_text(wrong)
    with pytest.raises(AssertionError, match=r"Draft \[9\], chosen \[7, 8\]: \[7\], not"):
        exercise.check(tmp_path)


def test_figures_are_svg_for_light_and_dark_pages():
    figures = [
        bars("A & B", {"one": {"a": 0.5, "b": 0}, "two": {"a": 1.0}}),
        lines("Times", {"up": {1: 1, 10: 5}, "flat": {1: 2, 10: 2}}, "x", "y"),
        lines("Times", {"up": {1: 1, 10: 5}}, "x", "y", is_log=True),
        flow("Way", ["a", "b"], {"right": ["1", "2"], "left": ["", "3"]}),
        timeline("Places", {"static": [[0, 0, None], [1, 2, 2]]}),
    ]
    for svg in figures:
        assert "prefers-color-scheme:dark" in svg
        assert "nan" not in svg
    assert "A &amp; B" in figures[0]
    assert figures[3].count("<path") == 1  # no arrow from or to an empty step


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return None", "cannot use what your code returns (TypeError"),
        ("return text[99], tag", "Line 2 raises IndexError"),
        ("return (", "SyntaxError"),
    ],
)
def test_a_fault_of_an_answer_is_told_in_one_line(tmp_path, monkeypatch, capsys, body, said):
    shutil.copy(find(8) / "check.py", tmp_path)
    (tmp_path / "exercise.py").write_text(f"def split(text, tag):\n    {body}\n")
    monkeypatch.setattr(exercise, "ROOT", tmp_path)
    monkeypatch.setattr(exercise, "find", lambda _: tmp_path)
    assert exercise.main(["8"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("exercise.py: not yet. ")
    assert said in line
