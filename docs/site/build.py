"""Builds the site into .site/html: `python -m docs.site.build [--repo-url URL]`."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from docs.site.links import find_faults
from docs.site.pages import (
    ROOT,
    DeadLinkError,
    convert,
    show_source,
    source_page,
    staged,
)
from lessons.run import folders

HERE = Path(__file__).parent
OUTPUT = ROOT / ".site"
SECTIONS = {
    "How it works": ["architecture", "engine", "glossary"],
    "APIs": ["openai", "anthropic", "cli"],
    "Operations": [
        "configuration",
        "deployment",
        "observability",
        "metrics",
        "reliability",
        "security",
        "threat-model",
    ],
}
PROJECT = [
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "src/playground/README.md",
    "src/bundled/storyteller/README.md",
    "training/README.md",
    "benchmarks/LOG.md",
]


def documents() -> dict[str, list[str]]:
    """Returns the pages of docs/ by section; a page that no section names is under Operations."""
    named = {name for names in SECTIONS.values() for name in names}
    others = sorted(path.stem for path in ROOT.glob("docs/*.md") if path.stem not in named)
    sections = {title: list(names) for title, names in SECTIONS.items()}
    sections["Operations"] += others
    return {title: [f"docs/{name}.md" for name in names] for title, names in sections.items()}


def navigation() -> list[tuple[str, list[str]]]:
    """Returns the sections of the site with their pages, as paths in the repository."""
    lessons = [str(folder.relative_to(ROOT) / "README.md") for folder in folders()]
    return [
        ("Start", ["README.md"]),
        ("Lessons", ["lessons/README.md", *lessons]),
        *documents().items(),
        ("Project", PROJECT),
    ]


def title(path: str) -> str:
    """Returns the first heading of a page."""
    lines = (ROOT / path).read_text().splitlines()
    return next(line.removeprefix("# ") for line in lines if line.startswith("# "))


def nav_toml() -> str:
    """Returns the navigation as a value of TOML."""
    sections = []
    for heading, paths in navigation():
        items = [f"{{{json.dumps(title(path))} = {json.dumps(staged(path))}}}" for path in paths]
        if heading == "Start":
            sections += items
        else:
            sections.append(f"{{{json.dumps(heading)} = [{', '.join(items)}]}}")
    return f"[{', '.join(sections)}]"


def put(folder: Path, path: str, text: str) -> None:
    """Writes a page, and the folders above it."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def stage(folder: Path, repo_url: str = "") -> None:
    """Writes all pages into a folder, with figures and the source files that they link to.

    Raises:
        DeadLinkError: a page links to no file.
    """
    open_pages = [path for _, paths in navigation() for path in paths]
    done: set[str] = set()
    sources: set[str] = set()
    while open_pages:
        path = open_pages.pop()
        if path in done:
            continue
        done.add(path)
        text, links = convert(path, repo_url)
        put(folder, staged(path), text)
        open_pages += links.pages
        sources |= set() if repo_url else links.sources
        for asset in links.assets:
            (folder / asset).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / asset, folder / asset)
    while sources:
        path = sources.pop()
        text, more = show_source(path)
        put(folder, source_page(path), text)
        sources |= {one for one in more if not (folder / source_page(one)).exists()}


def build(output: Path, repo_url: str = "") -> Path:
    """Builds the site, and returns the folder of its HTML.

    Raises:
        DeadLinkError: a link of a page leads nowhere, or a page loads from another server.
        SystemExit: the generator warned of something.
    """
    shutil.rmtree(output, ignore_errors=True)
    stage(output / "pages", repo_url)
    shutil.copyfile(HERE / "site.css", output / "pages" / "site.css")
    config = (HERE / "zensical.toml").read_text().replace("nav = []", f"nav = {nav_toml()}")
    put(output, "zensical.toml", config)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=output,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    faults = find_faults(output / "html")
    if faults:
        raise DeadLinkError("\n".join(faults))
    return output / "html"


def main(arguments: list[str]) -> int:
    """Builds the site; returns 1 with the reasons if a link is dead."""
    parser = argparse.ArgumentParser(prog="python -m docs.site.build")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument(
        "--repo-url",
        default=os.environ.get("REPO_URL", ""),
        help="address of the repository's files, as https://github.com/OWNER/NAME/blob/main; "
        "without it the site has pages with the source",
    )
    chosen = parser.parse_args(arguments)
    try:
        folder = build(chosen.output, chosen.repo_url)
    except DeadLinkError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(list(folder.rglob('*.html')))} pages: {folder / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
