"""Limits of keys, their 429s and headers, and the usage log."""

import asyncio
import json
import re
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from src.api.routes import route_policies
from src.config import Settings
from src.limits.rate_limit import RateLimit
from src.limits.usage import Usage, UsageMiddleware
from src.middleware.route_policy import ROUTE_POLICY
from src.observability.http_metrics import HttpMetrics
from tests.conftest import wait_until
from tests.support.keys import bearer, create_key, id_of
from tests.support.servers import LocalServer, Streamed, serve

SECRET_WORDS = "tell nobody"
ROUTES = {
    "/generate": {"prompt": "the", "max_length": 10},
    "/v1/completions": {"prompt": "the", "max_tokens": 10},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10},
}
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


class Metered:
    """A server with keys, and its usage log."""

    def __init__(self, server: LocalServer, file: Path, log: Path) -> None:
        self.server = server
        self.file = file
        self._log = log

    def key(self, name: str, *options: str) -> str:
        key = create_key(self.file, name, *options)
        url = self.server.url + "/v1/models"
        wait_until(lambda: httpx2.get(url, headers=bearer(key)).status_code == 200)
        return key

    def ask(self, key: str, path: str = "/generate", **body: object) -> httpx2.Response:
        body = ROUTES[path] | body
        if path != "/generate":
            body = {"model": self.server.engine.model_name} | body
        return httpx2.post(self.server.url + path, json=body, headers=bearer(key), timeout=60)

    def lines(self, count: int) -> list[dict]:
        """Returns the lines of the usage log, once it has so many."""
        wait_until(lambda: self._log.exists() and len(self._log.read_text().splitlines()) >= count)
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        assert len(lines) == count
        return lines


@pytest.fixture
def start_metered(start_server, tmp_path):
    def start(**settings: object) -> Metered:
        file, log = tmp_path / "keys.json", tmp_path / "usage.jsonl"
        admin = create_key(file, "admin", "--scopes", "admin")
        settings = {"usage_log": log, "chat_template": TEMPLATE} | settings
        server = start_server(auth="api_key", api_keys_file=file, **settings)
        server.headers = bearer(admin)
        return Metered(server, file, log)

    return start


def assert_limited(response: httpx2.Response, limit: str, quota: int, left: int = 0) -> None:
    """Checks a 429: its limit, what is left of it, and the time to wait."""
    assert response.status_code == 429, response.text
    wait = int(response.headers["retry-after"])
    assert wait >= 1
    assert response.headers["ratelimit"] == f'"{limit}";r={left};t={wait}'
    assert response.headers["ratelimit-policy"].startswith(f'"{limit}";q={quota}')
    assert f"{quota} " in response.text
    assert f"Try again in {wait} s" in response.text


def test_each_key_has_requests_of_its_own(start_metered):
    metered = start_metered(rate_limit_requests=3)
    usual, more = metered.key("usual"), metered.key("more", "--requests", "5")
    for key, quota in ((usual, 3), (more, 5)):
        for _ in range(quota):
            assert metered.ask(key).status_code == 200
        assert_limited(metered.ask(key), "requests", quota)
    other = metered.key("other")
    assert metered.ask(other, "/v1/completions").status_code == 200
    body = metered.ask(usual, "/v1/completions").json()
    assert body["error"]["code"] == "rate_limit_exceeded"
    assert metered.ask(usual, "/v1/messages").json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_every_response_has_rate_limit_headers(start_metered, path, stream):
    metered = start_metered(rate_limit_requests=9)
    key = metered.key("one", "--tokens", "100")
    for left in (8, 7):
        response = metered.ask(key, path, stream=stream)
        assert response.status_code == 200
        tokens = re.fullmatch(
            rf'"requests";r={left};t=[1-9]\d?, "tokens";r=(\d+)', response.headers["ratelimit"]
        )
        assert 0 < int(tokens[1]) < 100
        policy = response.headers["ratelimit-policy"]
        assert policy == '"requests";q=9;w=60, "tokens";q=100;w=60'
    refused = metered.ask(key, path, max_tokens=0, max_length=-1)
    assert refused.status_code in (400, 422)
    assert refused.headers["ratelimit"].startswith('"requests";r=6;')
    assert refused.headers["ratelimit-policy"] == '"requests";q=9;w=60'


def test_tokens_are_reserved_while_a_request_runs_and_what_is_left_is_given_back(start_metered):
    metered = start_metered()
    key = metered.key("one", "--tokens", "100")
    gate = metered.server.hold()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(metered.ask, key, max_length=30, num_return_sequences=3)
        gate.wait()
        assert_limited(metered.ask(key), "tokens", 100, left=9)  # 1 + 3 x 30 are reserved
        assert_limited(metered.ask(key, "/v1/completions"), "tokens", 100, left=9)
        assert_limited(metered.ask(key, stream=True), "tokens", 100, left=9)
        gate.open()
        assert running.result().status_code == 200
    assert_limited(metered.ask(key), "tokens", 100, left=9)


def test_tokens_saved_by_a_stop_text_are_given_back(start_metered, reciting_model):
    metered = start_metered(model_name=str(reciting_model("the cat sat on the mat. ")))
    key = metered.key("one", "--tokens", "150")
    for number in range(1, 6):
        response = metered.ask(key, max_length=100, stop=["cat"])
        assert response.status_code == 200, response.text
        used = response.json()["generated"][0]["tokens"]
        assert used < 20
        metered.lines(number)  # the engine ends a sequence after its answer was sent


def test_a_client_that_leaves_pays_for_what_was_made(start_metered):
    metered = start_metered()
    key = metered.key("one", "--tokens", "120")
    gate = metered.server.hold()
    body = ROUTES["/generate"] | {"max_length": 100, "stream": True}
    url = metered.server.url + "/generate"
    gate.permit(3)  # the response starts with the first token
    with httpx2.stream("POST", url, json=body, headers=bearer(key), timeout=60) as response:
        next(response.iter_lines())
    gate.open()
    (line,) = metered.lines(1)
    assert 1 <= line["generated_tokens"] < 100
    assert metered.ask(key, max_length=10).status_code == 200


def test_a_request_above_the_whole_quota_is_a_400(start_metered):
    metered = start_metered()
    key = metered.key("small", "--tokens", "20")
    response = metered.ask(key, "/v1/completions", max_tokens=50)
    assert response.status_code == 400
    assert "up to 51 tokens" in response.json()["error"]["message"]
    assert response.json()["error"]["param"] == "max_tokens"
    assert metered.ask(key, max_length=50).status_code == 422
    assert metered.ask(key, max_length=5).status_code == 200


def test_a_key_has_so_many_requests_at_the_same_time(start_metered):
    metered = start_metered(rate_limit_concurrent=2)
    key, other = metered.key("one"), metered.key("other", "--concurrent", "1")
    gate = metered.server.hold()
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(metered.ask, name, stream=True) for name in (key, key, other)]
        wait_until(lambda: metered.server.engine.num_live == 3)
        assert_limited(metered.ask(key), "concurrent", 2)
        assert_limited(metered.ask(other, "/v1/messages"), "concurrent", 1)
        gate.open()
        for answer in running:
            Streamed.read(answer.result().text)
    wait_until(lambda: metered.ask(key).status_code == 200)


def test_an_address_has_so_many_requests_whatever_its_keys(start_metered):
    metered = start_metered(rate_limit_address_requests=50, rate_limit_period=60)
    statuses = [metered.ask("llmk_000000000000_x").status_code for _ in range(51)]
    assert statuses == [401] * 50 + [429]
    admin = metered.server.headers
    for path in ("/metrics", "/v1/models", "/no/such/path"):
        headers = {**admin, "X-Forwarded-For": "10.0.0.1", "X_FORWARDED_FOR": "10.0.0.2"}
        response = httpx2.get(metered.server.url + path, headers=headers)
        assert_limited(response, "address", 50)
    assert httpx2.get(metered.server.url + "/health").status_code == 200
    metered.server.service.rate_limit._requests.limiter.reset()


def test_each_request_that_used_tokens_has_one_line_and_no_prompt_is_anywhere(
    start_metered, caplog
):
    metered = start_metered()
    key = metered.key("team a")
    prompt = f"the {SECRET_WORDS}"
    whole = metered.ask(key, prompt=prompt, num_return_sequences=2)
    metered.ask(key, "/v1/completions", prompt=[prompt, prompt], stream=True)
    metered.ask(key, "/v1/messages")
    metered.ask(key, prompt="")
    lines = metered.lines(3)
    assert {line["key"] for line in lines} == {id_of(key)}
    assert {line["name"] for line in lines} == {"team a"}
    assert [line["sequences"] for line in lines] == [2, 2, 1]
    assert [line["generated_tokens"] for line in lines] == [20, 20, 10]
    num_prompt = whole.json()["prompt_tokens"]
    assert [line["prompt_tokens"] for line in lines[:2]] == [num_prompt, 2 * num_prompt]
    assert lines[0]["request_id"] == whole.headers["x-request-id"]
    assert [line["endpoint"] for line in lines] == ["/generate", "/v1/completions", "/v1/messages"]
    samples = metered.server.samples()
    assert samples["inference_caller_requests_total", id_of(key)] == 4
    assert samples["inference_caller_tokens_total", id_of(key), "generated"] == 50
    text = caplog.text + json.dumps(lines) + metered.server.get("/metrics").text
    assert not re.search(SECRET_WORDS, text)


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit")
def test_a_line_cut_by_a_full_disk_is_logged_and_the_next_is_whole(tmp_path):
    """RLIMIT_FSIZE cuts a write as a full disk does."""
    usage = tmp_path / "usage.jsonl"
    usage.write_text('{"generated_tokens": 0}\n' * 50_000)  # more than the server's log has
    before = usage.stat().st_size
    with serve(tmp_path, usage_log=usage) as server:
        server.wait_until("/health/ready")
        limit = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (before + 30, limit[1]))
        assert server.post({"prompt": "Once", "max_length": 3}).status_code == 200
        wait_until(lambda: "usage is not written to USAGE_LOG" in server.log)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limit)
        assert server.post({"prompt": "Once", "max_length": 4}).status_code == 200
        wait_until(lambda: usage.read_text().count("\n") == 50_002)
    cut, whole = usage.read_text()[before:].splitlines()
    assert len(cut) == 30
    assert cut in server.log  # which quotes the whole line
    assert json.loads(whole)["sequences"] == 1


def test_metrics_have_a_bounded_number_of_labels():
    from src.observability.http_metrics import MAX_CALLERS, HttpMetrics

    metrics = HttpMetrics()
    labels = {metrics.caller_label(f"{number:012x}") for number in range(1000)}
    assert len(labels) == MAX_CALLERS + 1
    assert {metrics.caller_label(f"jwt:{number}") for number in range(1000)} == {"jwt"}
    assert metrics.caller_label("0" * 12) == "0" * 12


def test_replicas_count_tokens_together(storage, start_metered):
    first = start_metered(rate_limit_storage=storage.url)
    key = first.key("one", "--tokens", "40")
    second = start_metered(rate_limit_storage=storage.url)
    for metered in (first, second, first):
        assert metered.ask(key, max_length=10).status_code == 200
    assert_limited(second.ask(key, max_length=10), "tokens", 40, left=7)


def test_the_failure_policy_holds_for_tokens(storage, start_metered):
    metered = start_metered(rate_limit_storage=storage.url, rate_limit_storage_failure="closed")
    key = metered.key("one", "--tokens", "40")
    storage.stop()
    response = metered.ask(key)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert httpx2.get(metered.server.url + "/health/live").status_code == 200
    storage.start()
    wait_until(lambda: metered.ask(key).status_code == 200)


@dataclass(frozen=True)
class Ended:
    num_tokens: int = 3
    admitted_at: float | None = 1.0


def test_withdrawn_prompts_cost_nothing(tmp_path):
    log, metrics = tmp_path / "usage.jsonl", HttpMetrics()
    settings = Settings(_env_file=None, usage_log=log, rate_limit_tokens=100)
    usage = Usage(settings, RateLimit(settings, metrics.limit_storage_up), metrics)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await usage.reserve(10, 5, 1)
        usage.sequence_ended(Ended())
        await usage.reserve(40, 0, 2)
        usage.give_up(40, 2)

    path = "/v1/embeddings"
    scope = {"type": "http", "path": path, "client": ("127.0.0.1", 1)}
    scope[ROUTE_POLICY] = route_policies().find(path)
    for _ in range(4):  # 55 of 100 tokens each: unused ones are given back
        asyncio.run(UsageMiddleware(answer, usage)(scope, None, None))
    usage.shutdown()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    used = [(line["sequences"], line["prompt_tokens"], line["generated_tokens"]) for line in lines]
    assert used == [(1, 10, 3)] * 4
