"""Measures single hostile requests beside a calm stream: `python -m benchmarks.attacks`.

Each attack's row has its answers and their times, the longest gap between two events of the calm
stream, and the time of a new, ordinary schema afterwards. The exit status is 1 if a process died or
hung, or a figure exceeds its bound (`MAX_GAP`, `MAX_COMPILE`).
"""

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import httpx2

from benchmarks.servers import Server, serve_ours

MODEL = "storyteller"
MAX_GAP = 0.5  # seconds
MAX_COMPILE = 1.0  # seconds
CLIENT_TIMEOUT = 90  # seconds; an answer that takes longer counts as none
_numbers = count()


@dataclass(frozen=True, slots=True)
class Attack:
    """Equal requests that one client sends at the same time.

    Args:
        name: row of the table.
        path: path of the route.
        body: JSON body.
        copies: number of equal requests.
    """

    name: str
    path: str
    body: bytes
    copies: int = 1


def completion(name: str, copies: int = 1, **fields: object) -> Attack:
    """Creates an attack by one field of /v1/completions."""
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 24, "temperature": 1} | fields
    return Attack(name, "/v1/completions", json.dumps(body).encode(), copies)


def chain_of_references(length: int) -> dict[str, object]:
    """Creates a JSON schema with a chain of references."""
    defs: dict[str, object] = {
        f"a{index}": {"$ref": f"#/$defs/a{index + 1}"} for index in range(length)
    }
    return {"$defs": defs | {f"a{length}": {"type": "string"}}, "$ref": "#/$defs/a0"}


def chain_of_rules(length: int) -> str:
    """Creates a Lark grammar with a chain of rules."""
    rules = "".join(f"r{index}: r{index + 1}\n" for index in range(length))
    return f"start: r0\n{rules}r{length}: /x/\n"


GRAMMARS = [
    completion("chain of 3,000 references", guided_json=chain_of_references(3000)),
    completion("chain of 30 references", guided_json=chain_of_references(30)),
    completion("chain of 3,000 rules", guided_grammar=chain_of_rules(3000)),
    completion("260 kB of an unclosed text", guided_grammar='["' + '\\"' * 130_000),
    completion("an empty list of types", copies=4, guided_json={"type": []}),
    completion(
        "a huge multipleOf", copies=4, guided_json={"type": "integer", "multipleOf": 10000019}
    ),
    completion("a bracket in a comment", guided_grammar="// [\nstart: /a{100000}/"),
    completion(
        "an ambiguous grammar",
        n=31,
        min_tokens=200,
        max_tokens=200,
        guided_grammar='start: a\na: a a a| a a | "x" | "y"',
    ),
    completion("an unclosed count", guided_regex="a{12"),
    completion("2,000 open brackets", guided_grammar="start: " + "(" * 2000 + '"x"' + ")" * 2000),
    completion("60,000 brackets in a pattern", guided_regex="(" * 60_000 + "a" + ")" * 60_000),
    completion("counts of counts", guided_regex="(((((a{99}){99}){99}){99}){99}){99}"),
    completion("far back", n=16, guided_regex="[ab]*a[ab]{60}c"),
    completion("optional then counted", guided_regex="(a?){500}a{500}"),
    completion("3,000 properties", guided_json={"properties": {f"p{i}": {} for i in range(3000)}}),
    completion(
        "a union of 2,000 objects",
        n=8,
        guided_json={
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"k": {"const": i}, "v": {"type": "string"}},
                    "required": ["k", "v"],
                }
                for i in range(2000)
            ]
        },
    ),
    completion("20 nested stars", guided_regex="(" * 20 + "a" + "*)" * 20 + "b"),
    completion("many choices", guided_choice=[f"choice {index}" * 9 for index in range(2000)]),
]
BODIES = [
    Attack(
        "690,000 negative tokens",
        "/detokenize",
        json.dumps({"model": MODEL, "tokens": [-1] * 690_000}, separators=(",", ":")).encode(),
    ),
    completion("250,000 null choices", guided_choice=[None] * 250_000),
    Attack(
        "log-probabilities of 128 answers",
        "/v1/chat/completions",
        json.dumps(
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": "Hi"}],
                "n": 128,
                "logprobs": True,
                "top_logprobs": 20,
                "max_tokens": 100,
            }
        ).encode(),
    ),
]
ATTACKS = GRAMMARS + BODIES


@dataclass(slots=True)
class Result:
    """Result of an attack; times in seconds."""

    answers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0
    longest_gap: float = 0
    compile_seconds: float = 0

    @property
    def is_within_bounds(self) -> bool:
        return (
            self.longest_gap <= MAX_GAP
            and self.compile_seconds <= MAX_COMPILE
            and not {"500", "502", "lost"} & self.answers.keys()
        )


class CalmStream:
    """A client that streams answers in turn and records the gaps between events."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ends = threading.Event()
        self.longest_gap = 0.0
        self.has_begun = threading.Event()

    def run(self) -> None:
        """Streams until stopped; a broken stream is recorded as an infinite gap."""
        body = {"prompt": "Once upon a time", "max_length": 200, "stream": True}
        with httpx2.Client(timeout=CLIENT_TIMEOUT) as client:
            last = time.monotonic()
            while not self._ends.is_set():
                try:
                    with client.stream("POST", self._url + "/generate", json=body) as answer:
                        answer.raise_for_status()
                        for _ in answer.iter_raw():
                            now = time.monotonic()
                            if self.has_begun.is_set():
                                self.longest_gap = max(self.longest_gap, now - last)
                            last = now
                            self.has_begun.set()
                            if self._ends.is_set():
                                break
                except httpx2.HTTPError:
                    self.longest_gap = float("inf")
                    return

    @contextmanager
    def running(self) -> Iterator["CalmStream"]:
        """Streams while the context lasts."""
        thread = threading.Thread(target=self.run)
        thread.start()
        self.has_begun.wait(CLIENT_TIMEOUT)
        try:
            yield self
        finally:
            self._ends.set()
            thread.join()


def ask(url: str, path: str, body: bytes) -> str:
    """Returns the status of an answer, "lost" without one."""
    headers = {"Content-Type": "application/json"}
    try:
        answer = httpx2.post(url + path, content=body, headers=headers, timeout=CLIENT_TIMEOUT)
    except httpx2.HTTPError:
        return "lost"
    return str(answer.status_code)


def fresh_schema() -> bytes:
    """Creates a request for an ordinary schema that the server has not seen."""
    schema = {
        "type": "object",
        "properties": {
            f"name{next(_numbers)}{time.time_ns()}": {"type": "string", "maxLength": 5},
            "age": {"type": "integer"},
        },
        "required": ["age"],
    }
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 1, "guided_json": schema}
    return json.dumps(body).encode()


def run_attack(url: str, attack: Attack) -> Result:
    """Runs an attack beside a calm stream, then requests a new schema."""
    result = Result()
    with CalmStream(url).running() as calm:
        started = time.monotonic()
        with ThreadPoolExecutor(attack.copies) as pool:
            answers = [
                pool.submit(ask, url, attack.path, attack.body) for _ in range(attack.copies)
            ]
            result.answers.update(answer.result() for answer in answers)
        result.seconds = time.monotonic() - started
        started = time.monotonic()
        good = ask(url, "/v1/completions", fresh_schema())
        result.compile_seconds = time.monotonic() - started if good == "200" else float("inf")
    result.longest_gap = calm.longest_gap
    return result


def row(attack: Attack, result: Result) -> str:
    """Creates a row of the table."""
    answers = ", ".join(f"{number} x {status}" for status, number in result.answers.items())
    return (
        f"| {attack.name} | {answers} | {result.seconds:.2f} | {result.longest_gap:.2f} |"
        f" {result.compile_seconds:.2f} | {'' if result.is_within_bounds else 'BROKEN'} |"
    )


def main() -> None:
    """Runs all attacks, on one server for as long as it lives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="attacks whose names hold this text")
    options = parser.parse_args()
    chosen = [attack for attack in ATTACKS if options.only in attack.name]
    print(
        "| attack | answers | seconds | longest gap | fresh schema | |\n|---|---|---|---|---|---|"
    )
    is_broken = False
    while chosen:
        with serve_ours(MODEL, max_body_bytes=2**21, timeout_seconds=60) as server:
            is_broken |= _run_all(server, chosen)
    sys.exit(is_broken)


def _run_all(server: Server, attacks: list[Attack]) -> bool:
    """Runs and removes attacks until the server is broken or the list is empty."""
    is_broken = False
    while attacks and not is_broken:
        attack = attacks.pop(0)
        result = run_attack(server.url, attack)
        print(row(attack, result), flush=True)
        is_broken = not result.is_within_bounds
    return is_broken


if __name__ == "__main__":
    main()
