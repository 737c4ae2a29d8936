"""Lines of a batch count as requests of the key that created it."""

import json
from pathlib import Path

import httpx2
import pytest
from openai import OpenAI

from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.batches import as_text, chat_line, connect, ids_of, read_file, start, wait_for
from tests.support.keys import bearer, create_key, id_of, run_keys
from tests.support.servers import LocalServer, parse_samples, serve_app

NUM_LINES = 40


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    create_key(path, "unused")
    return path


@pytest.fixture(scope="module")
def key_server(tmp_path_factory, keys_file):
    settings = create_settings(
        batch_dir=tmp_path_factory.mktemp("batches") / "batches",
        auth="api_key",
        api_keys_file=keys_file,
        rate_limit_period=2,
    )
    with serve_app(create_app(settings)) as server:
        yield server


def create_client(server: LocalServer, keys_file: Path, name: str, *options: str) -> OpenAI:
    """Returns a client of a new key, once the server knows it."""
    client = connect(server.url, create_key(keys_file, name, *options))
    url, headers = server.url + "/v1/models", bearer(client.api_key)
    wait_until(lambda: httpx2.get(url, headers=headers).status_code == 200)
    return client


def test_tokens_of_lines_count_in_the_limit_of_their_key(key_server, keys_file):
    # A line reserves 18 tokens, so three fit into a period; the others wait, and none fails.
    client = create_client(key_server, keys_file, "tokens", "--tokens", "60")
    batch = wait_for(client, start(client, as_text(chat_line(number) for number in range(6))))
    assert (batch.request_counts.completed, batch.error_file_id) == (6, None)
    metrics = key_server.service.http_metrics.render("")[0].decode()
    label = ("inference_caller_tokens_total", id_of(client.api_key), "generated")
    assert parse_samples(metrics)[label] == batch.usage.output_tokens


def test_lines_do_not_count_in_the_limits_of_requests(key_server, keys_file):
    limits = ("--requests", "8", "--concurrent", "1")
    client = create_client(key_server, keys_file, "few", *limits)
    lines = as_text(chat_line(number) for number in range(NUM_LINES))
    assert wait_for(client, start(client, lines)).request_counts.completed == NUM_LINES


def test_lines_of_a_revoked_key_are_refused(key_server, keys_file):
    client = create_client(key_server, keys_file, "revoked")
    fields = {"max_tokens": 400, "ignore_eos": True}
    batch = start(client, as_text(chat_line(number, **fields) for number in range(300)))
    wait_for(client, batch, "in_progress")
    assert run_keys(keys_file, "revoke", id_of(client.api_key)).returncode == 0
    folder = key_server.service.settings.batch_dir
    wait_until(lambda: not (folder / "batches" / batch.id).exists())
    contents = [path.read_text() for path in (folder / "files").iterdir()]
    refused = [json.loads(line) for text in contents for line in text.splitlines()]
    refused = [line for line in refused if line.get("response", {}).get("status_code") == 401]
    assert refused
    assert refused[-1]["response"]["body"]["error"]["code"] == "invalid_api_key"


def test_lines_need_the_scope_of_their_route(key_server, keys_file):
    client = create_client(key_server, keys_file, "generate", "--scopes", "generate")
    body = {"model": "storyteller", "input": "Hello"}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}
    batch = wait_for(client, start(client, as_text([line]), "/v1/embeddings"))
    (error,) = read_file(client, batch.error_file_id)
    assert ids_of([error]) == ["a"]
    assert error["response"]["status_code"] == 403
