"""Batches as OpenAI's client sends them."""

import io
import json
import time
from collections.abc import Iterable
from pathlib import Path

import openai
from openai.types import Batch

from tests.conftest import wait_until

FINAL = ("completed", "failed", "cancelled", "expired")
CHATS = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def connect(url: str, key: str = "none") -> openai.OpenAI:
    """Returns a client that does not try again."""
    return openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=60)


def chat_line(custom_id: object, **fields: object) -> dict[str, object]:
    """A chat in a line; `fields` of its body."""
    body = {"model": "storyteller", "messages": QUESTION, "temperature": 0, "max_tokens": 8}
    return {"custom_id": str(custom_id), "method": "POST", "url": CHATS, "body": body | fields}


def as_text(lines: Iterable[dict[str, object]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def upload(client: openai.OpenAI, data: bytes | Path, purpose: str = "batch") -> str:
    """Returns the id of a new file."""
    source = data if isinstance(data, Path) else ("in.jsonl", io.BytesIO(data))
    return client.files.create(file=source, purpose=purpose).id


def start(client: openai.OpenAI, data: bytes | Path, endpoint: str = CHATS, **options) -> Batch:
    """Returns a new batch with these lines."""
    options = {"completion_window": "24h"} | options
    file_id = upload(client, data)
    return client.batches.create(input_file_id=file_id, endpoint=endpoint, **options)


def wait_for(client: openai.OpenAI, batch: Batch, *states: str) -> Batch:
    """Returns the batch when it has one of the states; by default when it has ended."""
    latest = batch

    def has_come() -> bool:
        nonlocal latest
        time.sleep(0.04)
        latest = client.batches.retrieve(batch.id)
        return latest.status in (states or FINAL)

    wait_until(has_come)
    return latest


def read_file(client: openai.OpenAI, file_id: str | None) -> list[dict[str, object]]:
    """Returns the lines of an output file."""
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def ids_of(lines: list[dict[str, object]]) -> list[object]:
    return [line["custom_id"] for line in lines]
