"""Checks the links of the built site: files and anchors exist, nothing is loaded from elsewhere."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "audio": "src"}
LOADING_RELATIONS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "manifest"}


@dataclass(slots=True)
class Page:
    """Ids of a page, its links, and the addresses of what a browser loads with it."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """Collects a page."""

    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.page.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.page.links.append(values["href"])
        relations = set(values.get("rel", "").split())
        if tag == "link" and relations & LOADING_RELATIONS:
            self.page.loaded.append(values["href"])
        if values.get(LOADED.get(tag, "")):
            self.page.loaded.append(values[LOADED[tag]])


def read(path: Path) -> Page:
    """Returns a page of the built site."""
    reader = Reader()
    reader.feed(path.read_text())
    return reader.page


def find_faults(folder: Path) -> list[str]:
    """Returns the dead links of a built site, and what it would load from other servers."""
    pages = {path.resolve(): read(path) for path in sorted(folder.rglob("*.html"))}
    return [
        f"{path.relative_to(folder.resolve())}: {fault}"
        for path, page in pages.items()
        for fault in _faults(path, page, pages)
        if path.name != "404.html"  # its links begin at the site's address, which is not known
    ]


def _faults(path: Path, page: Page, pages: dict[Path, Page]) -> Iterator[str]:
    for target in page.loaded:
        if urlsplit(target).netloc:
            yield f"loads {target} from another server"
    for target in page.links + page.loaded:
        address, anchor = urldefrag(target)
        if urlsplit(target).scheme or urlsplit(target).netloc:
            continue
        file = (path.parent / unquote(address)).resolve() if address else path
        if file.is_dir():
            file /= "index.html"
        if not file.exists():
            yield f"{target} does not exist"
        elif anchor and unquote(anchor) not in pages[file].ids:
            yield f"{target} has no such anchor"
