"""`models` lists a server's models and downloads others."""

import json
from pathlib import Path

import pytest

from tests.support.hub import run_hub, use_hub


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_list_shows_names_and_contexts(run, server):
    done = run("models", "list", "--url", server.url)
    (row,) = [one for one in done.out.splitlines() if "storyteller" in one]
    assert "1024" in row
    (model,) = json.loads(run("models", "list", "--url", server.url, "--json").out)
    assert model["id"] == "storyteller"


def test_pull_downloads_for_serve_and_prints_the_folder(run, tiny_model, cache):
    with run_hub() as hub, use_hub(hub.url):
        hub.add("org/tiny", tiny_model())
        done = run("models", "pull", "org/tiny")
    assert done.status == 0
    folder = Path(done.out.splitlines()[-1])
    assert folder.is_relative_to("cache") or folder.is_relative_to(cache)
    assert (folder / "config.json").exists()
    assert (folder / "model.safetensors").exists()


def test_pull_without_a_network_is_one_sentence(run, cache):
    with run_hub() as hub:
        url = hub.url
    with use_hub(url):
        done = run("models", "pull", "org/tiny")
    assert done.status == 1
    assert "the download from the model hub" in done.err
    assert len(done.err.splitlines()) == 1
