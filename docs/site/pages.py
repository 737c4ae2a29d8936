"""Turns Markdown files of the repository into pages of the site: changes links, folds answers.

Pages keep their paths, so that links between them stay right. A `README.md` becomes `index.md`.
Links to other files lead to the repository on the web, or else to pages with the source.
"""

import ast
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\(\s*([^)\s]+)\s*\)")
ANSWER = re.compile(
    r"^<details><summary>(.*?)</summary>\n(.*?)^</details>$", re.MULTILINE | re.DOTALL
)
NAME = re.compile(r"`(\w+)(?:\(\))?`")
PLAYGROUND = "http://127.0.0.1:8000/#/"
HINT = """

!!! tip "Links to the playground"
    They work while `make serve` runs on your machine.
"""
ASSETS = (".svg", ".png")


class DeadLinkError(Exception):
    """A link leads to no file."""


@dataclass(slots=True)
class Links:
    """Targets of the links of a page, as paths in the repository."""

    pages: set[str] = field(default_factory=set)
    assets: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)


def staged(path: str) -> str:
    """Returns the path of a page's Markdown in the site's folder."""
    pure = PurePosixPath(path)
    return str(pure.with_name("index.md")) if pure.name == "README.md" else path


def source_page(path: str) -> str:
    """Returns the path of the page for a file or a folder; no name begins with a dot."""
    return f"source/{path.removeprefix('.')}.md"


@cache
def definitions(path: Path) -> dict[str, int]:
    """Returns the lines of a Python file on which its functions, classes and names begin."""
    lines: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            lines.setdefault(node.name, node.lineno)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines.setdefault(node.target.id, node.lineno)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            lines.setdefault(node.targets[0].id, node.lineno)
    return lines


def line_meant(text: str, start: int, end: int, path: Path) -> int | None:
    """Returns the line of a Python file that a link means, if the words around it name one.

    The name nearest to the link counts, within its list item or paragraph.
    """
    if path.suffix != ".py":
        return None
    known = definitions(path)
    first = max(text.rfind(mark, 0, start) for mark in ("\n\n", "\n- ", "\n| "))
    last = min(
        (at for mark in ("\n\n", "\n- ", "\n|") if (at := text.find(mark, end)) >= 0),
        default=len(text),
    )
    found = [
        (start - match.end() if match.start() < start else match.start() - end, match[1])
        for match in NAME.finditer(text, max(first, 0), last)
        if match[1] in known
    ]
    return known[min(found)[1]] if found else None


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """Changes a text without its fenced blocks."""
    parts, at = [], 0
    for block in FENCE.finditer(text):
        parts += [change(text[at : block.start()]), block[0]]
        at = block.end()
    return "".join([*parts, change(text[at:])])


def fold(match: re.Match[str]) -> str:
    """Returns a question with its answer as a block that opens."""
    title = match[1].replace('"', "&quot;")
    body = "\n".join(f"    {line}" if line else "" for line in match[2].strip("\n").split("\n"))
    return f'??? question "{title}"\n\n{body}\n'


@dataclass(slots=True)
class Converter:
    """Changes the links of a page, and collects them.

    Args:
        path: of the Markdown file in the repository.
        repo_url: as for `convert`.
        links: the targets so far.
    """

    path: str
    repo_url: str
    links: Links = field(default_factory=Links)

    def change(self, text: str) -> str:
        """Returns a text with the links of the site."""
        return LINK.sub(self._point, text)

    def _point(self, match: re.Match[str]) -> str:
        label, (target, _, anchor) = match[1], match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        name = os.path.normpath(PurePosixPath(self.path).parent / target)
        file = ROOT / name
        if name.startswith("..") or not file.exists():
            raise DeadLinkError(f"{self.path} links to {match[2]}, which does not exist")
        if file.suffix == ".md":
            self.links.pages.add(name)
            address = self._relative(staged(name))
        elif file.suffix in ASSETS:
            self.links.assets.add(name)
            address = self._relative(name)
        else:
            line = line_meant(match.string, match.start(), match.end(), file)
            address, anchor = self._source(name, line)
        return f"{label}({address}{'#' * bool(anchor)}{anchor})"

    def _source(self, name: str, line: int | None) -> tuple[str, str]:
        self.links.sources.add(name)
        if self.repo_url:
            return f"{self.repo_url.rstrip('/')}/{name}", f"L{line}" if line else ""
        return self._relative(source_page(name)), line_anchor(line) if line else ""

    def _relative(self, target: str) -> str:
        return os.path.relpath(target, PurePosixPath(staged(self.path)).parent)


def convert(path: str, repo_url: str = "") -> tuple[str, Links]:
    """Returns a page of the repository as a page of the site, and what it links to.

    Args:
        path: of the Markdown file in the repository.
        repo_url: of the repository's files, such as `https://github.com/OWNER/NAME/blob/main`; if
            empty, links lead to pages with the source.

    Raises:
        DeadLinkError: a link leads to no file.
    """
    converter = Converter(path, repo_url)
    text = outside_fences((ROOT / path).read_text(), converter.change)
    text = ANSWER.sub(fold, text)
    if path.startswith("lessons/") and PLAYGROUND in text:
        text += HINT
    return text, converter.links


def line_anchor(line: int) -> str:
    """Returns the id that the highlighter gives to a line of a page's first block."""
    return f"__codelineno-0-{line}"


def show_source(path: str) -> tuple[str, set[str]]:
    """Returns a page with a file's source, or a folder's list, and the files it links to."""
    head = f"---\ntitle: {path}\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n# {path}\n\n"
    file = ROOT / path
    if file.is_dir():
        names = sorted(one.name for one in file.iterdir() if one.suffix in (".py", ".cpp", ".h"))
        here = PurePosixPath(path).name
        items = "".join(f"- [{name}]({here}/{name}.md)\n" for name in names)
        return head + items, {f"{path}/{name}" for name in names}
    kinds = {".py": "python", ".h": "cpp", ".cpp": "cpp", ".yml": "yaml", ".toml": "toml"}
    kind = kinds.get(file.suffix, "text")
    text = file.read_text()
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f'{head}{fence} {{ .{kind} linenums="1" }}\n{text.rstrip()}\n{fence}\n', set()
