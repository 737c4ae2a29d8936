"""Streams as they go over the wire, event by event: tests/api/transcripts/ holds them.

For an intended change, `TRANSCRIPTS=write python -m pytest tests/api/test_transcripts.py` writes
them anew. Ids, times and the model's folder stand in them as what they are called.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from src.config import Settings
from src.main import create_app
from tests.conftest import assert_nothing_is_left, create_settings
from tests.support.servers import LocalServer, serve_app
from tests.support.tiny_models import END
from tests.support.wire import fail_after

FOLDER = Path(__file__).parent / "transcripts"
TEXT = f"the cat sat 👩‍🚀 on the mat.{END}"
STAMPS = [
    (r'"id":"(cmpl|chatcmpl)-[0-9a-f]{32}"', r'"id":"\1-ID"'),
    (r'"created":\d+', '"created":TIME'),
    (r'"system_fingerprint":"fp_[0-9a-f]{10}"', '"system_fingerprint":"fp_ID"'),
    (r'"model":"[^"]+"', '"model":"MODEL"'),
    (r"-?\d+(\.\d+)?e-\d+|-?\d+\.\d+", lambda found: f"{round(float(found[0]), 2) + 0:.2f}"),
]
CHAT = {"messages": [{"role": "user", "content": "a"}]}
USAGE = {"stream_options": {"include_usage": True}}
GREEDY = {"temperature": 0}

# Name: path, body, and the step at which the model fails.
CASES: dict[str, tuple[str, dict[str, object], int | None]] = {
    "chat": ("/v1/chat/completions", CHAT, None),
    "chat-usage": ("/v1/chat/completions", CHAT | USAGE, None),
    "chat-two-choices": ("/v1/chat/completions", CHAT | {"n": 2, "max_tokens": 4}, None),
    "chat-logprobs": ("/v1/chat/completions", CHAT | {"logprobs": True, "max_tokens": 3}, None),
    "chat-stop": ("/v1/chat/completions", CHAT | {"stop": "sat 👩‍🚀 on"}, None),
    "chat-error": ("/v1/chat/completions", CHAT, 3),
    "completion": ("/v1/completions", {"prompt": "a", "max_tokens": 30}, None),
    "completion-usage": ("/v1/completions", {"prompt": "a", "max_tokens": 4} | USAGE, None),
    "completion-two-choices": ("/v1/completions", {"prompt": "a", "n": 2, "max_tokens": 4}, None),
    "completion-echo": (
        "/v1/completions",
        {"prompt": "a", "echo": True, "logprobs": 1, "max_tokens": 2},
        None,
    ),
    "completion-stop": ("/v1/completions", {"prompt": "a", "stop": ["mat", " on"]}, None),
    "completion-error": ("/v1/completions", {"prompt": "a"}, 3),
    "generate": ("/generate", {"prompt": "a"}, None),
    "generate-two-sequences": (
        "/generate",
        {"prompt": "a", "num_return_sequences": 2, "max_length": 4},
        None,
    ),
    "generate-stop": ("/generate", {"prompt": "a", "stop": "on"}, None),
    "generate-error": ("/generate", {"prompt": "a"}, 3),
}


@pytest.fixture(scope="module")
def settings(reciting_model: Callable[[str], Path]) -> Settings:
    template = "{{ messages[0].content }}"
    return create_settings(model_name=str(reciting_model(TEXT)), chat_template=template)


@pytest.fixture(scope="module")
def reciter(settings: Settings) -> Iterator[LocalServer]:
    with serve_app(create_app(settings)) as server:
        yield server
        assert_nothing_is_left(server)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][2] is None])
def test_a_stream_is_what_it_was(reciter: LocalServer, name: str):
    compare(name, reciter)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][2] is not None])
def test_a_stream_that_fails_is_what_it_was(settings: Settings, name: str):
    with serve_app(create_app(settings)) as server:
        fail_after(server, CASES[name][2])
        compare(name, server)
        assert_nothing_is_left(server)


def compare(name: str, server: LocalServer) -> None:
    path, body, _ = CASES[name]
    found = transcript(server, path, GREEDY | body | {"stream": True})
    file = FOLDER / f"{name}.txt"
    if os.environ.get("TRANSCRIPTS") == "write":
        file.write_text(found)
    assert found == file.read_text()


def transcript(server: LocalServer, path: str, body: dict[str, object]) -> str:
    """The request and the answer to it, without what is never the same."""
    named = body | ({} if path == "/generate" else {"model": server.engine.model_name})
    response = httpx2.post(server.url + path, json=named, timeout=60)
    answer = response.text
    for pattern, stamp in STAMPS:
        answer = re.sub(pattern, stamp, answer)
    asked = json.dumps(body, ensure_ascii=False)
    kind = response.headers["content-type"]
    return f"POST {path}\n{asked}\n\n{response.status_code} {kind}\n\n{answer}"


def test_every_transcript_is_compared():
    assert {file.stem for file in FOLDER.iterdir()} == CASES.keys()
