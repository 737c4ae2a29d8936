"""A model hub on the loopback: as much of its HTTP API as a download of a whole repository needs.

Beyond serving folders, it can fail in the ways that a real one does.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

TOKEN = "hf_letmein"  # opens gated repositories
REPOSITORY = r"(?P<repository>[^/]+(?:/[^/]+)?)"
API_PATH = re.compile(
    rf"/api/models/{REPOSITORY}/(?P<action>revision|tree)/(?P<revision>.+)(?P<file>)"
)
FILE_PATH = re.compile(rf"/{REPOSITORY}/(?P<action>resolve)/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass(frozen=True)
class Repository:
    """One folder for each revision."""

    revisions: dict[str, Path] = field(default_factory=dict)
    is_gated: bool = False

    def find(self, revision: str) -> tuple[str, Path] | None:
        """Returns commit and folder of a branch, tag or commit."""
        for name, folder in self.revisions.items():
            commit = hashlib.sha1(f"{name} {folder}".encode()).hexdigest()
            if revision in (name, commit):
                return commit, folder
        return None


@dataclass
class Hub:
    """State of the hub: repositories, requests so far, and injected failures.

    Args:
        repositories: by id.
        requests: method, action, repository, revision and file of each request so far.
        broken_file: downloads of this file break off with a 500.
        status: answers everything with this status, if set.
        body: what it says then.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    broken_file: str | None = None
    status: int | None = None
    body: bytes = b""
    url: str = ""

    def add(
        self, repo_id: str, folder: Path, revision: str = "main", is_gated: bool = False
    ) -> None:
        repository = self.repositories.setdefault(repo_id, Repository(is_gated=is_gated))
        repository.revisions[revision] = folder

    def downloads(self) -> set[str]:
        """The files that were fetched."""
        return {line.split(" ")[-1] for line in self.requests if line.startswith("GET resolve ")}


@contextmanager
def run_hub() -> Iterator[Hub]:
    """Serves an empty hub; when left, its port refuses connections."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def use_hub(url: str, token: str | None = None) -> Iterator[None]:
    """Makes this process use that hub, as HF_ENDPOINT and HF_TOKEN do before it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
        patch.setenv("HF_TOKEN", token or "")
        close_session()
        try:
            yield
        finally:
            close_session()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.status is not None:
            self._answer(self.hub.status, self.hub.body)
            return
        match = API_PATH.fullmatch(path) or FILE_PATH.fullmatch(path)
        if match is None:
            self._answer(404)
            return
        repo_id, action, revision, file = match.group("repository", "action", "revision", "file")
        self.hub.requests.append(f"{self.command} {action} {repo_id} {revision} {file}")
        repository = self.hub.repositories.get(repo_id)
        if repository is None:  # without a token, a missing repository looks like a private one
            self._refuse(404 if self._token else 401, "RepoNotFound")
        elif (found := repository.find(revision)) is None:
            self._refuse(404, "RevisionNotFound")
        elif action == "resolve" and repository.is_gated and self._token != TOKEN:
            self._refuse(403 if self._token else 401, "GatedRepo")
        elif action == "revision":
            files = [entry for entry in _list_tree(found[1]) if entry["type"] == "file"]
            siblings = [{"rfilename": entry["path"]} for entry in files]
            self._answer_json({"id": repo_id, "sha": found[0], "siblings": siblings})
        elif action == "tree":
            self._answer_json(_list_tree(found[1]))
        else:
            self._answer_file(*found, file)

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _answer_file(self, commit: str, folder: Path, file: str) -> None:
        if self.command == "GET" and file == self.hub.broken_file:
            self._answer(500)
            return
        content = (folder / file).read_bytes()
        self._answer(200, content, {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": commit})

    def _answer_json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, headers={"X-Error-Code": code})

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Says nothing; tests look at `requests`."""


def _list_tree(folder: Path) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = []
    for path in sorted(folder.rglob("*")):
        entry = {"path": str(path.relative_to(folder)), "oid": _hash(str(path).encode())}
        if path.is_file():
            entries.append(entry | {"type": "file", "size": path.stat().st_size})
        else:
            entries.append(entry | {"type": "directory"})
    return entries


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
