"""Client of OpenAI-compatible servers: streamed answers, and failures as sentences."""

import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx2

from src.cli.failures import answer_failure, stream_failure, transport_failure
from src.errors import CommandError

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
CONNECT_SECONDS = 10
READ_SECONDS = 600
"""Longest silence of a server, which may be queueing the request."""


@dataclass(slots=True)
class Sampling:
    """Sampling fields of requests; None leaves a value to the server."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    reasoning_effort: str | None = None

    def fields(self) -> dict[str, Any]:
        """Returns the fields to send."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Delta:
    """Part of a streamed answer; the numbers of tokens come once, if the server counts them."""

    text: str = ""
    thought: str = ""
    finish_reason: str | None = None
    num_prompt_tokens: int | None = None
    num_tokens: int | None = None

    @classmethod
    def read(cls, event: dict[str, Any]) -> "Delta":
        """Reads a chunk of a chat or a completion."""
        choice = (event.get("choices") or [{}])[0]
        delta = choice.get("delta") or {}
        usage = event.get("usage") or {}
        return cls(
            delta.get("content") or choice.get("text") or "",
            delta.get("reasoning_content") or delta.get("reasoning") or "",
            choice.get("finish_reason"),
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
        )


class EventParser:
    """Reads the JSON of Server-Sent Events, of which each is one line of data.

    Lines end with LF alone: the separators of Unicode may stand unescaped inside JSON.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yields the events that the next bytes complete.

        Raises:
            CommandError: the server reports a failure.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            payload = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and payload != b"[DONE]":
                yield _read_event(payload)


def _read_event(payload: bytes) -> dict[str, Any]:
    try:
        event = json.loads(payload)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise CommandError("The server sent an event that is no JSON object.")
    if "error" in event:
        raise stream_failure(event)
    return event


@dataclass(slots=True)
class Answer:
    """A streamed answer as far as it has come; times are those of `time.perf_counter`."""

    started_at: float
    text: str = ""
    thought: str = ""
    finish_reason: str | None = None
    num_prompt_tokens: int | None = None
    num_tokens: int = 0
    first_at: float | None = None
    ended_at: float = 0
    _is_counted: bool = False

    @classmethod
    def start(cls) -> "Answer":
        return cls(time.perf_counter())

    def add(self, delta: Delta) -> None:
        """Adds a part; servers that count no tokens are taken to send one in each part."""
        self.ended_at = time.perf_counter()
        self.text += delta.text
        self.thought += delta.thought
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.num_prompt_tokens = delta.num_prompt_tokens or self.num_prompt_tokens
        if delta.text or delta.thought:
            self.first_at = self.first_at or self.ended_at
            self.num_tokens += not self._is_counted
        if delta.num_tokens is not None:
            self.num_tokens, self._is_counted = delta.num_tokens, True

    @property
    def time_to_first_token(self) -> float | None:
        """Returns seconds from sending to the first text; None without any."""
        return None if self.first_at is None else round(self.first_at - self.started_at, 6)

    @property
    def tokens_per_second(self) -> float | None:
        """Returns new tokens over the whole time; None without a token.

        Not the speed after the first token: with speculative decoding pieces hold several tokens.
        """
        if not self.num_tokens:
            return None
        return round(self.num_tokens / self.seconds, 2)

    @property
    def seconds(self) -> float:
        """Returns the time from sending to the last part."""
        return round(self.ended_at - self.started_at, 6)


def base_url(url: str) -> str:
    """Returns the URL without a trailing slash or /v1, and with a scheme."""
    if "://" not in url:
        url = f"http://{url}"
    return url.rstrip("/").removesuffix("/v1")


def client_options(url: str, api_key: str | None) -> dict[str, Any]:
    """Returns the arguments of a client, plain or asynchronous, for a server."""
    return {
        "base_url": base_url(url),
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
    }


@contextmanager
def open_client(url: str, api_key: str | None) -> Iterator[httpx2.Client]:
    """Opens a client; failures of the connection become sentences.

    Raises:
        CommandError: the server cannot be reached, or the connection broke.
    """
    try:
        with httpx2.Client(**client_options(url, api_key)) as client:
            yield client
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise transport_failure(error, url) from error


def list_models(client: httpx2.Client) -> list[dict[str, Any]]:
    """Returns the entries of `/v1/models`.

    Raises:
        CommandError: the server refuses, or lists none.
    """
    response = client.get("/v1/models")
    if response.is_error:
        raise answer_failure(response)
    try:
        models: list[dict[str, Any]] = response.json()["data"]
    except (ValueError, KeyError, TypeError):
        models = []
    if not models:
        raise CommandError(f"The server at {client.base_url} lists no models at /v1/models.")
    return models


def first_model(client: httpx2.Client) -> str:
    """Returns the name of the first model that the server lists."""
    return str(list_models(client)[0]["id"])


def stream(client: httpx2.Client, path: str, body: dict[str, Any]) -> Iterator[Delta]:
    """Sends a request and yields the parts of its answer.

    Raises:
        CommandError: the server refuses, or fails in the stream.
    """
    parser = EventParser()
    with client.stream("POST", path, json=streamed(body)) as response:
        if response.is_error:
            response.read()
            raise answer_failure(response)
        for data in response.iter_bytes():
            yield from map(Delta.read, parser.feed(data))


async def stream_async(
    client: httpx2.AsyncClient, path: str, body: dict[str, Any]
) -> AsyncGenerator[Delta]:
    """Does the same as `stream`, for many requests at a time."""
    parser = EventParser()
    async with client.stream("POST", path, json=streamed(body)) as response:
        if response.is_error:
            await response.aread()
            raise answer_failure(response)
        async for data in response.aiter_bytes():
            for event in parser.feed(data):
                yield Delta.read(event)


def streamed(body: dict[str, Any]) -> dict[str, Any]:
    """Returns a request for a stream that ends with its usage."""
    return body | {"stream": True, "stream_options": {"include_usage": True}}
