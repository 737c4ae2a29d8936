"""The site builds without dead links, and works in a browser that reaches no other server."""

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

from docs.site import pages
from docs.site.build import build, navigation
from docs.site.links import find_faults, read
from docs.site.pages import DeadLinkError, convert, line_meant
from lessons.run import ROOT, folders
from tests.playground.test_browser import browse, browser  # noqa: F401  a fixture


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of the built site; a dead link ends the build."""
    return build(tmp_path_factory.mktemp("site"))


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_browser_reads_searches_and_walks_through_the_lessons(
    site,
    address,
    browser,  # noqa: F811
    tmp_path,
):
    lessons = ",".join(folder.name for folder in folders())
    browse("../site/site", browser, tmp_path, address, LESSONS=lessons)


def test_all_pages_are_in_the_navigation(site):
    named = {path for _, paths in navigation() for path in paths}
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")} <= named
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("lessons/*/README.md")} <= named
    links = read(site / "index.html").links
    assert all(f"./lessons/{folder.name}/index.html" in links for folder in folders())


def test_next_and_previous_lead_through_all_lessons(site):
    lessons = [f"lessons/{folder.name}/index.html" for folder in folders()]
    for before, after in pairwise(["lessons/index.html", *lessons]):
        assert resolved(site, before, "next") == after
        assert resolved(site, after, "prev") == before


def resolved(site: Path, page: str, direction: str) -> str:
    """Returns the page to which a link in the foot of another leads."""
    (target,) = re.findall(
        rf'<a href="([^"]+)" class="md-footer__link md-footer__link--{direction}"',
        (site / page).read_text(),
    )
    return str((site / page).parent.joinpath(target).resolve().relative_to(site.resolve()))


def test_links_lead_to_the_line_meant_and_to_the_term(site):
    links = read(site / "lessons" / "03-why-the-kv-cache" / "index.html").links
    lines = (ROOT / "src" / "engine" / "factory.py").read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if text.startswith("def _choose_layout("))
    assert f"../../source/src/engine/factory.py.html#__codelineno-0-{line}" in links
    assert "../../docs/glossary.html#kv-cache" in links


def test_with_a_repository_links_lead_there():
    text, links = convert("lessons/03-why-the-kv-cache/README.md", "https://example.org/blob/main/")
    assert "(https://example.org/blob/main/src/engine/attention/kv_cache.py)" in text
    assert "(https://example.org/blob/main/src/engine/factory.py#L" in text
    assert "../../source" not in text
    assert links.assets == {"lessons/03-why-the-kv-cache/step-time.svg"}


def test_a_page_with_a_dead_link_is_refused(tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text("# Page\n\n```\n[in code](none)\n```\n\nSee [it](none.md#a).")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    with pytest.raises(DeadLinkError, match=r"page\.md links to none\.md#a, which does not exist"):
        convert("page.md")


def test_faults_of_built_pages_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a id="x" href="b.html#y"></a><a href="#x"></a><a href="b.html#z"></a><a href="c"></a>'
        '<script src="https://example.org/a.js"></script><img src="d.png">'
        '<link rel="stylesheet" href="//example.org/a.css"><a href="https://example.org/"></a>'
    )
    (tmp_path / "b.html").write_text('<p id="y">')
    assert find_faults(tmp_path) == [
        "a.html: loads https://example.org/a.js from another server",
        "a.html: loads //example.org/a.css from another server",
        "a.html: b.html#z has no such anchor",
        "a.html: c does not exist",
        "a.html: d.png does not exist",
    ]


def test_answers_are_folded():
    text, _ = convert("lessons/03-why-the-kv-cache/README.md")
    assert text.count('\n??? question "') == 3
    assert "<details>" not in text


def test_the_nearest_name_counts(tmp_path):
    file = tmp_path / "code.py"
    file.write_text("x: int = 1\n\n\ndef far():\n    pass\n\n\nclass Near:\n    pass\n")
    text = "- `far` and `Near` in [it](code.py)\n- `x`\n"
    at = text.index("[it]")
    assert line_meant(text, at, at + 13, file) == 8
    assert line_meant("[it](code.py), not named", 0, 13, file) is None
