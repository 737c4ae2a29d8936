"""Metrics have the promised names, count what they say, and do not grow without bound."""

import asyncio
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx2
import pytest

from src.core.observers import Outcome
from src.engine.model.hidden_states import find_decoder
from src.main import create_app
from src.middleware.request_log import NOT_INFERENCE
from src.observability.engine_metrics import (
    ABORTED,
    DURATION_SECONDS,
    FAILED,
    FINISHED,
    FIRST_TOKEN_SECONDS,
    TOKEN_SECONDS,
)
from tests.conftest import assert_started_are_accounted_for, create_settings, wait_until
from tests.support.servers import Gate, LocalServer, parse_samples, serve, serve_app, workers_of

MODEL_LABELS = ("text_completion", "llm-inference")


@pytest.fixture
def tiny_client(start_client, tiny_model):
    return start_client(model_name=str(tiny_model("gpt2")))


def samples(client) -> dict[tuple[str, ...], float]:
    """All samples of /metrics: (name, label values…) to value."""
    return parse_samples(client.get("/metrics").text)


def test_counts_requests_durations_and_tokens_under_the_promised_names(tiny_client):
    body = {"prompt": "the cat", "max_length": 5, "num_return_sequences": 2}
    generated = tiny_client.post("/generate", json=body).json()["generated"]
    assert tiny_client.post("/generate", json={}).status_code == 422
    found = samples(tiny_client)
    assert found["inference_requests_total", "/generate", "success"] == 1
    assert found["inference_requests_total", "/generate", "client_error"] == 1
    assert found["inference_request_duration_seconds_count", "/generate"] == 2
    assert found["inference_request_duration_seconds_sum", "/generate"] > 0
    assert found["generated_tokens_total",] == sum(one["tokens"] for one in generated)


def test_a_failure_counts_as_error(tiny_client):
    def fail(*args: object, **kwargs: object) -> object:
        raise RuntimeError("made to fail")

    tiny_client.app.state.engine._lifecycle.loaded.model.forward = fail
    assert tiny_client.post("/generate", json={"prompt": "the"}).status_code == 500
    assert samples(tiny_client)["inference_requests_total", "/generate", "error"] == 1


def test_probes_scrapes_and_documentation_are_no_inference_requests(tiny_client):
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
        assert tiny_client.get(path).status_code == 200
    found = samples(tiny_client)
    counts = [value for key, value in found.items() if key[0] == "inference_requests_total"]
    assert sum(counts) == 0


def test_metrics_speak_openmetrics_to_those_who_ask(tiny_client):
    assert tiny_client.get("/metrics").headers["content-type"].startswith("text/plain")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    response = tiny_client.get("/metrics", headers=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def gauges(server: LocalServer) -> dict[str, float]:
    found = server.samples()
    names = ("running", "waiting", "live", "cached")
    return {name: found["inference_sequences_" + name,] for name in names}


def test_gauges_say_how_the_engine_is_before_during_and_after(start_server):
    server = start_server(max_batch_size=2)
    assert gauges(server) == {"running": 0, "waiting": 0, "live": 0, "cached": 0}
    assert server.sample("inference_kv_cache_usage_ratio") == 0
    gate = server.hold()

    async def ask() -> list[httpx2.Response]:
        body = {"prompt": "the cat", "max_length": 30, "num_return_sequences": 3, "top_p": 1}
        async with httpx2.AsyncClient(base_url=server.url, timeout=60) as client:
            asking = asyncio.ensure_future(client.post("/generate", json=body))
            await asyncio.to_thread(gate.let, 10)
            await asyncio.to_thread(
                wait_until,
                lambda: gauges(server) == {"running": 2, "waiting": 1, "live": 3, "cached": 0},
            )
            usage = server.sample("inference_kv_cache_usage_ratio")
            # Two of four slots of 128 hold the prompt and ten tokens, or nine.
            assert 2 * 9 / (4 * 128) < usage < 2 * 16 / (4 * 128)
            gate.open()
            return await asking

    assert asyncio.run(ask()).status_code == 200
    wait_until(lambda: gauges(server) == {"running": 0, "waiting": 0, "live": 0, "cached": 3})
    assert 0 < server.sample("inference_kv_cache_usage_ratio") < 3 * 40 / (4 * 128)


def test_counts_sequences_and_their_tokens(start_server):
    server = start_server()
    body = {"prompt": "the cat sat on the mat", "max_length": 7, "temperature": 0}
    answer = server.post(body).json()
    again = server.post(body | {"stream": True, "num_return_sequences": 2})
    assert again.status_code == 200
    stopped = server.post(body | {"stop": answer["generated"][0]["text"][-1]}).json()
    assert stopped["generated"][0]["finish_reason"] == "stop"
    # The engine ends the sequence a moment after its answer.
    wait_until(lambda: server.sample("inference_sequences_finished_total", "stop") == 1)
    found = server.samples()
    assert found["inference_sequences_started_total",] == 4
    assert found["inference_sequences_finished_total", "length"] == 3
    assert found["inference_sequences_finished_total", "stop"] == 1
    assert found["prompt_tokens_total",] == 4 * answer["prompt_tokens"]
    # All but the last token of the prompt was computed for the first of them.
    assert found["cached_prompt_tokens_total",] == 3 * (answer["prompt_tokens"] - 1)
    assert found["generated_tokens_total",] == 3 * 7 + stopped["generated"][0]["tokens"]
    assert_started_are_accounted_for(found)


def test_times_are_in_the_histograms_of_the_conventions(start_server):
    server = start_server()
    server.slow_down(0.03)
    server.post({"prompt": "the cat", "max_length": 4, "num_return_sequences": 2})
    found = server.samples()
    labels = (*MODEL_LABELS, server.engine.model_name)
    for name, error_type, expected in (
        ("time_to_first_token", (), FIRST_TOKEN_SECONDS),
        ("time_per_output_token", (), TOKEN_SECONDS),
        ("request_duration", ("",), DURATION_SECONDS),
    ):
        series = (*error_type, *labels)  # in the order of their names
        assert found[f"gen_ai_server_{name}_seconds_count", *series] == 2
        assert found[f"gen_ai_server_{name}_seconds_sum", *series] >= 2 * 0.03
        buckets = [key for key in found if key[0] == f"gen_ai_server_{name}_seconds_bucket"]
        assert [float(bound) for *_, bound in buckets] == [*expected, float("inf")]
        assert [found[key] for key in buckets if float(key[-1]) < 0.03] == [0] * sum(
            bound < 0.03 for bound in expected
        )
    assert found["inference_queue_seconds_count", "text_completion", "admitted"] == 2
    assert found["inference_prefill_seconds_count", "text_completion"] == 2
    assert found["inference_prefill_seconds_sum", "text_completion"] >= 2 * 0.03
    assert found["inference_inter_token_seconds_count",] == 6
    assert found["inference_inter_token_seconds_sum",] >= 6 * 0.03
    assert found["inference_step_seconds_count",] == 4
    assert found["inference_step_seconds_sum",] >= 4 * 0.03
    assert found["inference_step_sequences_sum",] == 8
    assert found["inference_step_tokens_sum",] >= 2 + 3 * 2


def test_the_buckets_are_those_of_the_conventions():
    assert (DURATION_SECONDS[0], DURATION_SECONDS[-1]) == (0.01, 81.92)
    assert (TOKEN_SECONDS[0], TOKEN_SECONDS[-1]) == (0.01, 2.5)
    assert (FIRST_TOKEN_SECONDS[0], FIRST_TOKEN_SECONDS[-1]) == (0.001, 10)


def test_a_sequence_that_did_not_finish_has_its_reason_in_its_duration(start_server):
    server = start_server(timeout_seconds=2)
    server.slow_down(0.05)
    assert server.post({"prompt": "the cat", "max_length": 100}).status_code == 200
    labels = (*MODEL_LABELS, server.engine.model_name)
    duration = "gen_ai_server_request_duration_seconds_count"
    wait_until(lambda: server.sample(duration, "timeout", *labels) == 1)
    assert server.sample("gen_ai_server_time_per_output_token_seconds_count", *labels) == 0


CHAT = [{"role": "user", "content": "Hello"}]
ASKED = {
    "/generate": ("text_completion", {"prompt": "Once", "max_length": 2}),
    "/v1/completions": ("text_completion", {"prompt": "Once", "max_tokens": 2}),
    "/v1/chat/completions": ("chat", {"messages": CHAT, "max_tokens": 2}),
    "/v1/responses": ("chat", {"input": "Hello", "max_output_tokens": 16}),
    "/v1/messages": ("chat", {"messages": CHAT, "max_tokens": 2}),
    "/v1/embeddings": ("embeddings", {"input": "Once"}),
}


@pytest.mark.parametrize(("path", "asked"), ASKED.items())
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_sequence_counts_as_what_it_was_asked_for(client, path, asked, is_stream):
    operation, body = asked
    if is_stream and operation == "embeddings":
        return
    body |= {} if path == "/generate" else {"model": "storyteller"}
    body |= {} if operation == "embeddings" else {"stream": is_stream}
    before = samples(client)
    assert client.post(path, json=body).status_code == 200
    after = samples(client)
    grown = {
        key[1]
        for key, value in after.items()
        if key[0] in {"inference_queue_seconds_count", "inference_prefill_seconds_count"}
        and value > before.get(key, 0)
    }
    assert grown == {operation}
    duration = ("gen_ai_server_request_duration_seconds_count", "")
    key = (*duration, operation, "llm-inference", "storyteller")
    assert after[key] == before.get(key, 0) + 1


def test_who_expires_in_the_queue_is_in_its_times(start_server):
    server = start_server(max_batch_size=1, queue_timeout_seconds=0.2)
    gate = server.hold()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(server.post, {"prompt": "the cat", "max_length": 3})
        wait_until(lambda: server.sample("inference_sequences_live") == 1)
        late = pool.submit(server.post, {"prompt": "the dog", "max_length": 3})
        wait_until(lambda: server.sample("inference_sequences_live") == 2)
        time.sleep(0.3)
        gate.open()
        assert running.result().status_code == 200
        assert late.result().status_code == 503
    found = server.samples()
    queue = "inference_queue_seconds"
    assert found[f"{queue}_count", "text_completion", "admitted"] == 1
    assert found[f"{queue}_count", "text_completion", "expired"] == 1
    assert found[f"{queue}_sum", "text_completion", "expired"] >= 0.2


def test_the_first_error_of_each_kind_can_be_seen(tiny_client):
    """A series that appears with its first event has no increase that Prometheus could see."""
    found = samples(tiny_client)
    for path in tiny_client.get("/openapi.json").json()["paths"]:
        if path not in NOT_INFERENCE and not path.startswith("/v1/models"):
            for status in ("success", "error", "client_error", "rate_limited", "cancelled"):
                assert found["inference_requests_total", path, status] == 0
    ended = "inference_sequences_{}_total"
    for how, reasons in (("finished", FINISHED), ("aborted", ABORTED), ("failed", FAILED)):
        for reason in reasons:
            assert found[ended.format(how), reason] == 0
    assert {*FINISHED, *ABORTED, *FAILED} == set(Outcome)
    for outcome in ("compiled", "cached", "refused"):
        assert found["inference_grammars_total", outcome] == 0


def test_tells_when_it_is_ready_how_many_may_come_and_when_it_began(tiny_model):
    settings = create_settings(model_name=str(tiny_model()), max_batch_size=3, max_queue_size=5)
    app = create_app(settings)
    before = parse_samples(app.state.metrics.render("")[0].decode())
    assert before["inference_ready",] == before["inference_sequences_limit",] == 0
    with serve_app(app) as server:
        wait_until(lambda: server.sample("inference_ready") == 1)
        wait_until(lambda: server.sample("inference_sequences_limit") == 8)
        found = server.samples()
        assert 0 < time.time() - found["process_start_time_seconds",] < 24 * 3600
        assert found["process_resident_memory_bytes",] > 2**20


@pytest.mark.parametrize("engine", ["continuous", "reference"])
def test_tells_how_long_a_step_has_been_taking_and_how_long_it_may(start_server, engine):
    """One embedding is one step, in which nothing else shows that the engine works."""
    server = start_server(engine=engine, hang_timeout_seconds=77)
    gate = Gate()
    server.gates.append(gate)
    decoder = find_decoder(server.engine._lifecycle.loaded.model)
    decoder.forward = partial(gate.forward, decoder.forward)
    body = {"model": server.engine.model_name, "input": "the cat"}
    assert server.sample("inference_step_age_seconds") == 0
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx2.post, server.url + "/v1/embeddings", json=body, timeout=60)
        wait_until(lambda: server.sample("inference_step_age_seconds") > 1)
        assert server.sample("inference_sequences_live") == 1
        gate.open()
        assert asked.result().status_code == 200
    wait_until(lambda: server.sample("inference_step_age_seconds") == 0)
    assert server.sample("inference_step_limit_seconds") == 77


POISON = "!"
STORM = {
    "success": {"max_length": 3},
    "stop": {"max_length": 30, "stop": list("aeiou t"), "num_return_sequences": 3},
    "stream": {"max_length": 3, "stream": True, "num_return_sequences": 2},
    "failure": {"prompt": POISON},
    "failing stream": {"prompt": POISON, "stream": True},
    "timeout": {"max_length": 120, "num_return_sequences": 2},
    "timeout of a stream": {"max_length": 120, "stream": True, "ignore_eos": True},
    "leaving": {"max_length": 120},
    "leaving a stream": {"max_length": 120, "stream": True},
    "too many": {"num_return_sequences": 16},
    "bad": {"max_length": 0},
}


async def storm(url: str, num_requests: int) -> None:
    """Asks for all: what needs a place first, then in a random order that is always the same."""
    first = ["timeout of a stream", *list(STORM)[:3]]
    kinds = [*first, *random.Random(1).choices(list(STORM), k=num_requests - len(first))]

    async def ask(client: httpx2.AsyncClient, kind: str, number: int) -> None:
        await asyncio.sleep(number * 0.02)
        body = {"prompt": "the cat", "temperature": 1.5, "top_p": 1} | STORM[kind]
        work = asyncio.ensure_future(client.post("/generate", json=body))
        if kind.startswith("leaving"):
            await asyncio.wait([work], timeout=0.2)
            work.cancel()
        await asyncio.wait([work])

    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(ask(client, kind, number) for number, kind in enumerate(kinds)))


def break_for_poison(server: LocalServer) -> None:
    tokenizer = server.engine._lifecycle.loaded.tokenizer
    poison = tokenizer.token_to_id(POISON)

    def forward(real, input_ids, **kwargs):
        if (input_ids == poison).any():
            raise RuntimeError("made to fail")
        return real(input_ids=input_ids, **kwargs)

    server.break_model(forward)


def test_in_every_scrape_of_a_storm_all_sequences_are_accounted_for(start_server):
    server = start_server(
        max_batch_size=4, max_queue_size=6, timeout_seconds=3, queue_timeout_seconds=0.5
    )
    server.slow_down(0.03)
    break_for_poison(server)

    async def scrape_meanwhile() -> list[dict[tuple[str, ...], float]]:
        scrapes = []
        raging = asyncio.ensure_future(storm(server.url, 100))
        async with httpx2.AsyncClient(base_url=server.url, timeout=60) as client:
            while not raging.done():
                scrapes.append(parse_samples((await client.get("/metrics")).text))
                await asyncio.sleep(0.01)
        await raging
        return scrapes

    scrapes = asyncio.run(scrape_meanwhile())
    for found in scrapes:
        assert_started_are_accounted_for(found)
        assert found["inference_sequences_running",] <= 4
    assert len({found["inference_sequences_live",] for found in scrapes}) > 3
    wait_until(lambda: server.sample("inference_sequences_live") == 0)
    # In the storm all that fail may have been refused, as the queue was full.
    body = {"prompt": POISON, "max_length": 2}
    assert httpx2.post(server.url + "/generate", json=body, timeout=60).status_code == 500
    found = server.samples()
    assert_started_are_accounted_for(found)
    for how, reason in (
        ("finished", "length"),
        ("finished", "stop"),
        ("failed", "error"),
        ("failed", "expired"),
        ("aborted", "cancelled"),
        ("aborted", "timeout"),
    ):
        assert found.get((f"inference_sequences_{how}_total", reason), 0) > 0, (how, reason)
    wait_until(lambda: num_answered(server) == 101)


def num_answered(server: LocalServer) -> float:
    samples = server.samples().items()
    return sum(value for key, value in samples if key[0] == "inference_requests_total")


def test_what_several_workers_count_adds_up(tmp_path, tiny_model):
    with serve(tmp_path, workers=2, model_name=tiny_model(), timeout_seconds=2) as server:
        server.wait_until("/health/ready")
        wait_until(lambda: server.log.count("ready to serve") == 2, seconds=120)
        asyncio.run(storm(server.url, 60))
        wait_until(lambda: server.sample("inference_sequences_live") == 0)
        found = server.samples()
        assert_started_are_accounted_for(found)
        assert found["inference_sequences_finished_total", "length"] > 0
        for _ in range(8):  # a new connection each time, so both workers get some
            assert server.post({"prompt": "the", "max_length": 3}).status_code == 200
        after = server.samples()
        started = "inference_sequences_started_total"
        assert after[started,] == found[started,] + 8
        assert 0 <= after["inference_kv_cache_usage_ratio",] <= 1
        assert server.stop() == 0


def test_what_a_dead_worker_was_doing_is_forgotten_and_that_another_came_is_seen(
    tmp_path, tiny_model
):
    with serve(tmp_path, workers=2, model_name=tiny_model(), max_queue_size=8) as server:
        server.wait_until("/health/ready")
        limit = 2 * (32 + 8)  # once both are ready; of one that has not begun nothing tells
        wait_until(lambda: server.sample("inference_sequences_limit") == limit, seconds=120)
        started = server.sample("process_start_time_seconds")
        os.kill(workers_of(server)[0], signal.SIGKILL)
        wait_until(lambda: server.sample("process_start_time_seconds") > started, seconds=120)
        wait_until(lambda: server.sample("inference_ready") == 1, seconds=120)
        assert server.sample("inference_sequences_limit") == limit
        assert server.stop() == 0
