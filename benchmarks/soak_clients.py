"""Clients of `benchmarks.soak`, each a loop of requests until the time is up.

`CLIENTS` lists the kinds of clients, with their number, key, allowed answers and action.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

import httpx2

from benchmarks.attacks import ATTACKS

CAPACITY = 8
"""Sequences that run together in a worker; one key has three times as many clients."""
FLOOD = "flood"
RECEIVE_TIMEOUT = 2  # seconds
CLIENT_TIMEOUT = 120  # seconds; a later answer counts as lost
PATH = "/v1/completions"
MODEL = "storyteller"
CUT = (httpx2.NetworkError, httpx2.RemoteProtocolError, OSError, IndexError)
"""Errors of a client after an early end of its connection; a raw client gets an empty line."""

HOSTILE = [attack for attack in ATTACKS if attack.name != "an ambiguous grammar"]  # takes 60 s
DRAW = Random(0)  # noqa: S311 - what is asked need not be secret
INVALID: list[tuple[bytes, int]] = [
    (b"{", 400),
    (b"[]", 400),
    (b'{"prompt": "a", "model": "storyteller", "max_tokens": -1}', 400),
    (b'{"prompt": "a", "model": "storyteller", "temperature": "hot"}', 400),
    (b'{"prompt": "a", "model": "another"}', 404),
    (b"[" * 20_000, 400),
]


@dataclass(frozen=True, slots=True)
class Broken:
    """An unexpected observation of a client.

    Args:
        at: time, by `time.monotonic()`.
        what: description.
        is_cut: its connection ended before its answer.
    """

    at: float
    what: str
    is_cut: bool = False


@dataclass(slots=True)
class Seen:
    """Answers to clients: statuses by kind, seconds by kind, and anomalies."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Session:
    """A client with its key."""

    http: httpx2.AsyncClient
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}


def _body(*, max_tokens: int = 16, stream: bool = False) -> dict[str, object]:
    prompt = " ".join(DRAW.choices(["Once", "a", "small", "dog", "went", "home"], k=12))
    return {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "stream": stream}


async def _whole(session: Session) -> int:
    answer = await session.http.post(PATH, json=_body(), headers=session.headers)
    return answer.status_code


async def _invalid(session: Session) -> int:
    content, expected = DRAW.choice(INVALID)
    answer = await session.http.post(PATH, content=content, headers=session.headers)
    assert answer.status_code == expected, f"{answer.status_code} for {content[:40]!r}"
    wrong = session.headers | {"Authorization": "Bearer nobody"}
    return (await session.http.post(PATH, json=_body(), headers=wrong)).status_code


async def _hostile(session: Session) -> int:
    """Sends a hostile grammar or body."""
    attack = DRAW.choice(HOSTILE)
    answer = await session.http.post(attack.path, content=attack.body, headers=session.headers)
    return answer.status_code


async def _shaped(session: Session) -> int:
    """Requests an ordinary schema, a new one each time."""
    schema = {"type": "object", "properties": {f"n{DRAW.random()}": {"type": "integer"}}}
    body = _body() | {"guided_json": schema}
    return (await session.http.post(PATH, json=body, headers=session.headers)).status_code


async def _read(session: Session, *, pause: float = 0, events: int | None = None) -> int:
    """Reads a stream to its end, or disconnects after a number of events."""
    body = _body(max_tokens=DRAW.randint(8, 48), stream=True)
    last, read = "", 0
    async with session.http.stream("POST", PATH, json=body, headers=session.headers) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                last, read = line, read + 1
                if read == events:
                    return answer.status_code
                await asyncio.sleep(pause)
    assert answer.status_code != 200 or last == "data: [DONE]", f"a stream ended with {last!r}"
    return answer.status_code


async def _leaving(session: Session) -> int:
    return await _read(session, events=DRAW.randint(1, 4))


async def _slow_reader(session: Session) -> int:
    return await _read(session, pause=0.05)


async def _slow_sender(session: Session) -> int:
    """Sends a byte now and then, until the server closes the connection."""
    address = urlsplit(str(session.http.base_url))
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        headers = {"Host": "a", "Content-Length": "1000"} | session.headers
        lines = [f"POST {PATH} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = asyncio.create_task(reader.readline())
        while not answer.done():
            writer.write(b" ")
            await asyncio.wait([answer], timeout=RECEIVE_TIMEOUT / 4)
        return int((await answer).split()[1])
    finally:
        writer.close()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of client.

    Args:
        number: number of clients, for each worker if they flood.
        key: name of the key that they share.
        allowed: allowed statuses.
        ask: one action of the loop.
        pause: seconds before each action, which do not count as waiting.
    """

    number: int
    key: str
    allowed: frozenset[int]
    ask: Callable[[Session], Awaitable[int]]
    pause: float = 0

    def number_for(self, num_workers: int) -> int:
        """Returns their number for a number of workers."""
        return self.number * (num_workers if self.key == FLOOD else 1)


SERVED = frozenset({200})  # fewer than the queue holds
CLIENTS = {
    "whole": Kind(CAPACITY * 3 // 2, FLOOD, SERVED, _whole),
    "streaming": Kind(CAPACITY * 3 // 4, FLOOD, SERVED, _read),
    "leaving": Kind(CAPACITY * 3 // 8, FLOOD, SERVED, _leaving),
    "reading slowly": Kind(CAPACITY * 3 // 8, FLOOD, SERVED, _slow_reader),
    "sending slowly": Kind(2, FLOOD, frozenset({408}), _slow_sender),
    "invalid": Kind(2, FLOOD, frozenset({401}), _invalid, 0.05),
    "hostile": Kind(1, "hostile", frozenset({200, 400, 413, 503}), _hostile, 0.5),
    "calm, with schemas": Kind(1, "shaped", SERVED, _shaped, 0.5),
    "over its limit": Kind(1, "limited", frozenset({200, 429}), _whole, 0.5),
    "calm, one key": Kind(1, "calm", frozenset({200}), _whole, 0.2),
    "calm, another": Kind(1, "quiet", frozenset({200}), _whole, 0.2),
}


async def run_clients(url: str, num_workers: int, keys: dict[str, str], until: float) -> Seen:
    """Runs all clients until `time.monotonic()` is `until` and their requests are answered."""
    seen = Seen()
    async with (
        httpx2.AsyncClient(
            base_url=url,
            timeout=CLIENT_TIMEOUT,
            # The server closes a connection after 5 idle seconds, perhaps during its next use.
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=2),
        ) as http,
        asyncio.TaskGroup() as group,
    ):
        for name, kind in CLIENTS.items():
            session = Session(http, keys[kind.key])
            for _ in range(kind.number_for(num_workers)):
                group.create_task(_run(name, kind, session, until, seen))
    return seen


async def _run(name: str, kind: Kind, session: Session, until: float, seen: Seen) -> None:
    while time.monotonic() < until:
        await asyncio.sleep(kind.pause)
        begin = time.monotonic()
        try:
            status = await kind.ask(session)
        except (httpx2.HTTPError, OSError, IndexError, AssertionError) as error:
            what = f"{name}: {type(error).__name__} {error}"
            seen.broken.append(Broken(time.monotonic(), what, isinstance(error, CUT)))
            await asyncio.sleep(0.1)
            continue
        seen.statuses[name, status] += 1
        seen.seconds.setdefault(name, []).append(time.monotonic() - begin)
        if status not in kind.allowed:
            what = f"{name}: status {status}"
            seen.broken.append(Broken(time.monotonic(), what))
