"""The playground over HTTP: the page for browsers, links for others, files, sizes, libraries."""

import gzip
import hashlib
import re

import httpx2
import pytest
from fastapi.testclient import TestClient

from src.playground.files import FOLDER, load_playground
from tests.support.keys import bearer, create_key

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
VIEWS = {"tokens.js", "sampling.js", "engine.js"}
LATER = VIEWS | {"markdown.js", "vendor/marked.js", "vendor/purify.js"}
"""Files that load after the first paint."""
LINKS = {
    "name": "LLM inference",
    "version": "0.1.0",
    "docs": "/docs",
    "openapi": "/openapi.json",
    "models": "/v1/models",
    "health": "/health",
}
IMPORT = re.compile(r"""(?:from|import|import\()\s*"(\.[^"]+)\"""")


def own_files() -> list[str]:
    return [
        path.name for path in FOLDER.glob("*.*") if path.suffix in {".js", ".css", ".html", ".svg"}
    ]


def test_a_browser_gets_the_page_and_other_clients_links(client: TestClient):
    page = client.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert '<div id="app">' in page.text
    assert page.headers["cache-control"] == "no-store"
    for accept in ("*/*", "application/json", ""):
        links = client.get("/", headers={"Accept": accept})
        assert links.json() == LINKS | {"playground": "/"}
        assert links.headers["vary"] == page.headers["vary"].partition(",")[0] == "Accept"


def test_without_the_playground_all_clients_get_links(start_client):
    client = start_client(playground=False)
    assert client.get("/", headers=BROWSER).json() == LINKS | {"playground": None}
    version = load_playground().version
    assert client.get(f"/playground/{version}/app.js").status_code == 404


def test_all_files_of_the_page_are_served_and_cached_for_good(client: TestClient):
    version = load_playground().version
    for name in [*own_files(), "vendor/preact.js", "vendor/marked.js", "vendor/purify.js"]:
        if name != "index.html":
            response = client.get(f"/playground/{version}/{name}")
            assert response.content == (FOLDER / name).read_bytes()
            assert response.headers["content-encoding"] == "gzip"
            assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    old = client.get("/playground/0123456789abcdef/app.js", headers={"Accept-Encoding": "identity"})
    assert old.headers["cache-control"] == "no-cache"
    assert "content-encoding" not in old.headers


@pytest.mark.parametrize(
    "path", ["README.md", "files.py", "vendor/package.json", "../api/deps.py", "", "index.html"]
)
def test_no_other_file_is_served(client: TestClient, path: str):
    response = client.get(f"/playground/{load_playground().version}/{path}")
    assert response.status_code == 404


def test_the_policy_of_the_page_allows_scripts_and_styles_of_this_server_alone(client: TestClient):
    policy = client.get("/", headers=BROWSER).headers["content-security-policy"]
    assert "unsafe" not in policy
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"


def test_the_page_is_small():
    """Compressed: 50 KB to the first paint, 300 KB in all."""
    playground = load_playground()
    sizes = {name: len(file.compressed) for name, file in playground.files.items()}
    assert sizes.keys() > LATER
    first = sum(size for name, size in sizes.items() if name not in LATER)
    assert first + len(playground.page.compressed) < 50_000
    assert sum(sizes.values()) < 300_000


def test_every_import_leads_to_a_file_and_none_leaves_the_server():
    playground = load_playground()
    page = gzip.decompress(playground.page.compressed).decode()
    for name in re.findall(rf'"playground/{playground.version}/([^"]+)"', page):
        assert name in playground.files
    for name in own_files():
        text = (FOLDER / name).read_text()
        assert not re.search(r"""(?:src|href|url|from|import)[=( ]+["']?(?:https?:)?//""", text)
        for target in IMPORT.findall(text):
            assert target.removeprefix("./") in playground.files, (name, target)


def test_the_libraries_are_those_of_the_recorded_hashes():
    vendor = FOLDER / "vendor"
    recorded = dict(
        reversed(line.split("  ")) for line in (vendor / "SHA256SUMS").read_text().splitlines()
    )
    files = {path.name for path in vendor.iterdir() if path.suffix in {".js", ".LICENSE"}}
    assert recorded.keys() == files
    for name, digest in recorded.items():
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest, name
        assert (vendor / name).suffix == ".LICENSE" or name.removesuffix(".js") in {
            "preact",
            "marked",
            "purify",
        }


def test_the_version_changes_with_any_file(monkeypatch, tmp_path):
    version = load_playground().version
    for name in ("index.html", "app.js"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    monkeypatch.setattr("src.playground.files.FOLDER", tmp_path)
    first = load_playground().version
    (tmp_path / "app.js").write_text("//")
    assert len({version, first, load_playground().version}) == 3


def test_the_page_needs_no_key_and_holds_no_secret(start_server, tmp_path):
    file = tmp_path / "keys.json"
    key = create_key(file, "one", "--scopes", "generate,metrics")
    server = start_server(auth="api_key", api_keys_file=file)
    server.headers = bearer(key)
    page = httpx2.get(server.url + "/", headers=BROWSER)
    assert page.status_code == 200
    assert key not in page.text
    assert httpx2.get(f"{server.url}/v1/models").status_code == 401
