"""Keys share one engine fairly, and no cached prompts."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.conftest import wait_until
from tests.support.keys import bearer, create_key
from tests.support.servers import LocalServer

PROMPT = " ".join(["the"] * 40)


class Tenants:
    """A server with keys of several tenants, by name."""

    def __init__(self, server: LocalServer, keys: dict[str, str]) -> None:
        self.server = server
        self.keys = keys
        self.done: list[str] = []
        self._lock = threading.Lock()

    def ask(self, name: str, **body: object) -> httpx2.Response:
        body = {"model": self.server.engine.model_name, "prompt": PROMPT, "max_tokens": 1} | body
        return httpx2.post(
            self.server.url + "/v1/completions",
            json=body,
            headers=bearer(self.keys[name]),
            timeout=120,
        )

    def complete(self, name: str, **body: object) -> dict:
        response = self.ask(name, **body)
        assert response.status_code == 200, response.text
        with self._lock:
            self.done.append(name)
        return response.json()

    def num_cached(self, name: str) -> int:
        usage = self.complete(name)["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]


@pytest.fixture
def start_tenants(start_server: Callable[..., LocalServer], tmp_path: Path):
    def start(options: dict[str, list[str]], **settings: object) -> Tenants:
        file = tmp_path / "keys.json"
        keys = {name: create_key(file, name, *more) for name, more in options.items()}
        admin = create_key(file, "admin", "--scopes", "admin")
        server = start_server(auth="api_key", api_keys_file=file, **settings)
        server.headers = bearer(admin)
        return Tenants(server, keys)

    return start


def test_prompts_of_a_key_are_cached_for_that_key_alone(start_tenants):
    tenants = start_tenants({"a": [], "b": []})
    assert tenants.num_cached("a") == 0
    assert tenants.num_cached("a") > 30
    assert tenants.num_cached("b") == 0
    assert tenants.num_cached("b") > 30


def test_a_flood_of_one_key_does_not_hold_up_another(start_tenants):
    tenants = start_tenants({"flood": [], "calm": []}, max_batch_size=2)
    gate = tenants.server.hold()
    with ThreadPoolExecutor(50) as pool:
        flood = [
            pool.submit(tenants.complete, "flood", prompt=f"the {number}", max_tokens=8)
            for number in range(40)
        ]
        wait_until(lambda: tenants.server.engine.num_live == 40)
        calm = pool.submit(tenants.complete, "calm", max_tokens=8)
        wait_until(lambda: tenants.server.engine.num_live == 41)
        gate.open()
        for answer in (*flood, calm):
            answer.result()
    # Two requests of the flood ran before, and at most one more was ahead of it.
    assert tenants.done.index("calm") <= 6
    assert tenants.done.count("flood") == 40


def test_a_key_that_fills_the_queue_keeps_no_other_out(start_tenants):
    tenants = start_tenants({"flood": [], "calm": []}, max_batch_size=2, max_queue_size=8)
    gate = tenants.server.hold()
    with ThreadPoolExecutor(50) as pool:
        flood = [
            pool.submit(tenants.ask, "flood", prompt=f"the {n}", max_tokens=8) for n in range(10)
        ]
        wait_until(lambda: tenants.server.engine.num_live == 10)
        assert tenants.ask("flood").status_code == 503
        calm = [pool.submit(tenants.ask, "calm", prompt=f"the {n}", n=2) for n in range(2)]
        wait_until(lambda: tenants.server.engine.num_live == 14)
        more = tenants.ask("calm")
        assert more.status_code == 503
        gate.open()
        assert [answer.result().status_code for answer in calm] == [200, 200]
        answers = [answer.result() for answer in flood]
        refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 4
    for answer in refused:
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "overloaded"
        assert "went to a key that has fewer" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) >= 1
    assert tenants.server.sample("inference_sequences_failed_total", "displaced") == 4


def test_a_key_of_twice_the_weight_has_two_turns_for_one(start_tenants):
    tenants = start_tenants({"light": [], "heavy": ["--weight", "2"]}, max_batch_size=1)
    gate = tenants.server.hold()
    with ThreadPoolExecutor(60) as pool:
        first = pool.submit(tenants.complete, "light", max_tokens=2)
        gate.wait()
        waiting = [
            pool.submit(tenants.complete, name, prompt=f"{number}")
            for number in range(24)
            for name in ("light", "heavy")
        ]
        wait_until(lambda: tenants.server.engine.num_live == 49)
        gate.open()
        for answer in (first, *waiting):
            answer.result()
    assert 12 <= tenants.done[:25].count("heavy") <= 20
    assert tenants.done[:30].count("heavy") >= 16


FLOOD = [
    {"prompt": f"the {number}", "n": 32, "max_tokens": 24, "seed": number} for number in range(10)
]
STEPS_TO_FIRST_TOKEN = 3
"""The current step, the next, and one more if the request came just after that began."""


def submit_flood(tenants: Tenants, pool: ThreadPoolExecutor) -> list[Future[httpx2.Response]]:
    """Submits requests of one key, half greedy and half sampled."""
    return [
        pool.submit(tenants.ask, "flood", **body, temperature=number % 2)
        for number, body in enumerate(FLOOD)
    ]


def texts_of(response: httpx2.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [choice["text"] for choice in response.json()["choices"]]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_calm_key_waits_for_no_running_flood_and_takes_nothing_from_it(
    start_tenants, tiny_model, architecture
):
    tenants = start_tenants({"flood": [], "calm": []}, model_name=str(tiny_model(architecture)))
    server, first_token = tenants.server, threading.Event()

    def read_stream() -> int:
        letter = server.engine._lifecycle.loaded.tokenizer.token_to_id(
            "a"
        )  # decodes to text at once
        body = {"model": server.engine.model_name, "prompt": PROMPT, "max_tokens": 4}
        body |= {"logit_bias": {str(letter): 100}}
        headers = bearer(tenants.keys["calm"])
        url = server.url + "/v1/completions"
        with httpx2.stream(
            "POST", url, json=body | {"stream": True}, headers=headers, timeout=120
        ) as response:
            for _ in response.iter_lines():
                first_token.set()
        return response.status_code

    with ThreadPoolExecutor(20) as pool:
        alone = [texts_of(answer.result()) for answer in submit_flood(tenants, pool)]
        gate = server.hold()
        flood = submit_flood(tenants, pool)
        wait_until(lambda: server.engine.num_live == 320)
        gate.let(6)
        calm = pool.submit(read_stream)
        wait_until(lambda: server.engine.num_live == 321)
        gate.let(STEPS_TO_FIRST_TOKEN)
        assert first_token.wait(60)
        gate.open()
        assert calm.result() == 200
        assert [texts_of(answer.result()) for answer in flood] == alone
    assert server.sample("inference_sequences_preempted_total") >= 1


def test_a_heavier_key_runs_more_at_once(start_tenants):
    tenants = start_tenants({"light": [], "heavy": ["--weight", "3"]}, max_batch_size=8)
    gate = tenants.server.hold()
    body = {"max_tokens": 20, "n": 8}
    with ThreadPoolExecutor(4) as pool:
        light = pool.submit(tenants.complete, "light", **body)
        gate.let(3)
        heavy = pool.submit(tenants.complete, "heavy", **body)
        wait_until(lambda: tenants.server.engine.num_live == 16)
        gate.let(3)
        running = tenants.server.engine._lifecycle.engine._core._scheduler._running
        num_running = Counter(sequence.request.weight for sequence in running)
        gate.open()
        assert len(light.result()["choices"]) == len(heavy.result()["choices"]) == 8
    assert num_running == {1: 2, 3: 6}


@pytest.mark.parametrize("engine", ["continuous", "reference"])
def test_a_request_does_not_wait_too_long_for_its_own_sequences(start_tenants, engine):
    tenants = start_tenants(
        {"only": []}, engine=engine, max_batch_size=2, queue_timeout_seconds=0.5
    )
    tenants.server.slow_down(0.05)
    assert len(tenants.complete("only", n=16, max_tokens=8)["choices"]) == 16
