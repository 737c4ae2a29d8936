"""Static files of the playground, read and compressed once at the start."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = "index.html"
VERSION_MARK = b"VERSION"
"""Placeholder in the page for the version, which is part of the paths of all other files."""

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Suffixes of the served files; all other files of the folder stay private."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file to serve.

    Args:
        content_type: for the header of this name.
        body: the content.
        compressed: the content, compressed by gzip.
    """

    content_type: str
    body: bytes
    compressed: bytes


@dataclass(frozen=True, slots=True)
class Playground:
    """All files of the playground.

    Args:
        version: hash of all files; a file's path contains it, so browsers cache the file for good.
        page: the page itself.
        files: path below the folder to the file, without the page.
    """

    version: str
    page: StaticFile
    files: Mapping[str, StaticFile]


def load_playground() -> Playground:
    """Reads all served files, and writes the version into the page."""
    paths = sorted(path for path in FOLDER.rglob("*") if path.suffix in CONTENT_TYPES)
    bodies = {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in paths}
    digest = hashlib.sha256()
    for name, body in bodies.items():
        digest.update(b"%d %s %d " % (len(name), name.encode(), len(body)) + body)
    version = digest.hexdigest()[:16]
    page = bodies.pop(PAGE).replace(VERSION_MARK, version.encode())
    files = {name: _static_file(name, body) for name, body in bodies.items()}
    return Playground(version, _static_file(PAGE, page), files)


def _static_file(name: str, body: bytes) -> StaticFile:
    content_type = CONTENT_TYPES[Path(name).suffix]
    return StaticFile(content_type, body, gzip.compress(body, mtime=0))
