"""Names, values and cardinality of the metrics."""

import asyncio
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx2
import pytest

from src.api.routes import route_policies
from src.core.observers import Outcome
from src.engine.model.hidden_states import find_decoder
from src.main import create_app
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
    """Returns all samples of /metrics: (name, label values…) to value."""
    return parse_samples(client.get("/metrics").text)


def test_requests_durations_and_tokens_have_the_promised_names(tiny_client):
    body = {"prompt": "the cat", "max_length": 5, "num_return_sequences": 2}
    generated = tiny_client.post("/generate", json=body).json()["generated"]
    assert tiny_client.post("/generate", json={}).status_code == 422
    metrics = samples(tiny_client)
    assert metrics["inference_requests_total", "/generate", "success"] == 1
    assert metrics["inference_requests_total", "/generate", "client_error"] == 1
    assert metrics["inference_request_duration_seconds_count", "/generate"] == 2
    assert metrics["inference_request_duration_seconds_sum", "/generate"] > 0
    assert metrics["generated_tokens_total",] == sum(sequence["tokens"] for sequence in generated)


def test_a_failure_counts_as_error(tiny_client):
    def fail(*args: object, **kwargs: object) -> object:
        raise RuntimeError("made to fail")

    tiny_client.app.state.service.engine._lifecycle.loaded.model.forward = fail
    assert tiny_client.post("/generate", json={"prompt": "the"}).status_code == 500
    assert samples(tiny_client)["inference_requests_total", "/generate", "error"] == 1


def test_probes_scrapes_and_documentation_do_not_count_as_requests(tiny_client):
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
        assert tiny_client.get(path).status_code == 200
    metrics = samples(tiny_client)
    counts = [value for key, value in metrics.items() if key[0] == "inference_requests_total"]
    assert sum(counts) == 0


def test_openmetrics_is_sent_on_request(tiny_client):
    assert tiny_client.get("/metrics").headers["content-type"].startswith("text/plain")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    response = tiny_client.get("/metrics", headers=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")


def gauges(server: LocalServer) -> dict[str, float]:
    metrics = server.samples()
    names = ("running", "waiting", "live")
    return {name: metrics["inference_sequences_" + name,] for name in names}


def test_gauges_follow_the_engine_before_during_and_after_a_request(start_server):
    server = start_server(max_batch_size=2)
    assert gauges(server) == {"running": 0, "waiting": 0, "live": 0}
    assert server.sample("inference_kv_cache_usage_ratio") == 0
    gate = server.hold()

    async def request() -> list[httpx2.Response]:
        body = {"prompt": "the cat", "max_length": 30, "num_return_sequences": 3, "top_p": 1}
        async with httpx2.AsyncClient(base_url=server.url, timeout=60) as client:
            pending = asyncio.ensure_future(client.post("/generate", json=body))
            await asyncio.to_thread(gate.let, 10)
            await asyncio.to_thread(
                wait_until,
                lambda: gauges(server) == {"running": 2, "waiting": 1, "live": 3},
            )
            usage = server.sample("inference_kv_cache_usage_ratio")
            # Two sequences have one or two blocks of 16 tokens each, of 4 * 128 tokens.
            assert 2 * 16 / (4 * 128) <= usage <= 2 * 32 / (4 * 128)
            assert server.sample("inference_kv_cache_reusable_tokens") == 0
            gate.open()
            return await pending

    assert asyncio.run(request()).status_code == 200
    wait_until(lambda: gauges(server) == {"running": 0, "waiting": 0, "live": 0})
    assert 0 < server.sample("inference_kv_cache_usage_ratio") < 3 * 40 / (4 * 128)
    assert server.sample("inference_kv_cache_reusable_tokens") in range(16, 3 * 32 + 1, 16)


def test_sequences_and_their_tokens_are_counted(start_server):
    server = start_server()
    body = {"prompt": "the cat sat on the mat " * 5, "max_length": 7, "temperature": 0}
    answer = server.post(body).json()
    again = server.post(body | {"stream": True, "num_return_sequences": 2})
    assert again.status_code == 200
    stopped = server.post(body | {"stop": answer["generated"][0]["text"][-1]}).json()
    assert stopped["generated"][0]["finish_reason"] == "stop"
    # The engine ends the sequence a moment after its answer.
    wait_until(lambda: server.sample("inference_sequences_finished_total", "stop") == 1)
    metrics = server.samples()
    assert metrics["inference_sequences_started_total",] == 4
    assert metrics["inference_sequences_finished_total", "length"] == 3
    assert metrics["inference_sequences_finished_total", "stop"] == 1
    assert metrics["prompt_tokens_total",] == 4 * answer["prompt_tokens"]
    # All blocks but that of the prompt's last token were computed for the first of them.
    num_cached = (answer["prompt_tokens"] - 1) // 16 * 16
    assert num_cached > 0
    assert metrics["cached_prompt_tokens_total",] == 3 * num_cached
    assert metrics["generated_tokens_total",] == 3 * 7 + stopped["generated"][0]["tokens"]
    assert_started_are_accounted_for(metrics)


def test_histograms_follow_the_conventions(start_server):
    server = start_server()
    server.slow_down(0.03)
    server.post({"prompt": "the cat", "max_length": 4, "num_return_sequences": 2})
    metrics = server.samples()
    labels = (*MODEL_LABELS, server.engine.model_name)
    for name, error_type, expected in (
        ("time_to_first_token", (), FIRST_TOKEN_SECONDS),
        ("time_per_output_token", (), TOKEN_SECONDS),
        ("request_duration", ("",), DURATION_SECONDS),
    ):
        series = (*error_type, *labels)  # in the order of their names
        assert metrics[f"gen_ai_server_{name}_seconds_count", *series] == 2
        assert metrics[f"gen_ai_server_{name}_seconds_sum", *series] >= 2 * 0.03
        buckets = [key for key in metrics if key[0] == f"gen_ai_server_{name}_seconds_bucket"]
        assert [float(bound) for *_, bound in buckets] == [*expected, float("inf")]
        assert [metrics[key] for key in buckets if float(key[-1]) < 0.03] == [0] * sum(
            bound < 0.03 for bound in expected
        )
    assert metrics["inference_queue_seconds_count", "text_completion", "admitted"] == 2
    assert metrics["inference_prefill_seconds_count", "text_completion"] == 2
    assert metrics["inference_prefill_seconds_sum", "text_completion"] >= 2 * 0.03
    assert metrics["inference_inter_token_seconds_count",] == 6
    assert metrics["inference_inter_token_seconds_sum",] >= 6 * 0.03
    assert metrics["inference_step_seconds_count",] == 4
    assert metrics["inference_step_seconds_sum",] >= 4 * 0.03
    assert metrics["inference_step_sequences_sum",] == 8
    assert metrics["inference_step_tokens_sum",] >= 2 + 3 * 2


def test_the_buckets_are_those_of_the_conventions():
    assert (DURATION_SECONDS[0], DURATION_SECONDS[-1]) == (0.01, 81.92)
    assert (TOKEN_SECONDS[0], TOKEN_SECONDS[-1]) == (0.01, 2.5)
    assert (FIRST_TOKEN_SECONDS[0], FIRST_TOKEN_SECONDS[-1]) == (0.001, 10)


def test_the_duration_of_an_unfinished_sequence_has_its_reason(start_server):
    server = start_server(timeout_seconds=2)
    server.slow_down(0.05)
    assert server.post({"prompt": "the cat", "max_length": 100}).status_code == 200
    labels = (*MODEL_LABELS, server.engine.model_name)
    duration = "gen_ai_server_request_duration_seconds_count"
    wait_until(lambda: server.sample(duration, "timeout", *labels) == 1)
    assert server.sample("gen_ai_server_time_per_output_token_seconds_count", *labels) == 0


CHAT = [{"role": "user", "content": "Hello"}]
REQUESTS = {
    "/generate": ("text_completion", {"prompt": "Once", "max_length": 2}),
    "/v1/completions": ("text_completion", {"prompt": "Once", "max_tokens": 2}),
    "/v1/chat/completions": ("chat", {"messages": CHAT, "max_tokens": 2}),
    "/v1/responses": ("chat", {"input": "Hello", "max_output_tokens": 16}),
    "/v1/messages": ("chat", {"messages": CHAT, "max_tokens": 2}),
    "/v1/embeddings": ("embeddings", {"input": "Once"}),
}


@pytest.mark.parametrize(("path", "request_"), REQUESTS.items())
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_sequence_counts_under_its_operation(client, path, request_, is_stream):
    operation, body = request_
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


def test_the_time_of_a_sequence_that_expires_in_the_queue_is_counted(start_server):
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
    metrics = server.samples()
    queue = "inference_queue_seconds"
    assert metrics[f"{queue}_count", "text_completion", "admitted"] == 1
    assert metrics[f"{queue}_count", "text_completion", "expired"] == 1
    assert metrics[f"{queue}_sum", "text_completion", "expired"] >= 0.2


def test_every_series_exists_before_its_first_event(tiny_client):
    """Prometheus' `rate` misses the first event of a series that appears with it."""
    metrics = samples(tiny_client)
    measured = {policy.path for policy in route_policies().policies if policy.is_measured}
    assert "/generate" in measured
    for path in measured:
        for status in ("success", "error", "client_error", "rate_limited", "cancelled"):
            assert metrics["inference_requests_total", path, status] == 0
    ended = "inference_sequences_{}_total"
    for end, reasons in (("finished", FINISHED), ("aborted", ABORTED), ("failed", FAILED)):
        for reason in reasons:
            assert metrics[ended.format(end), reason] == 0
    assert {*FINISHED, *ABORTED, *FAILED} == set(Outcome)
    for outcome in ("compiled", "cached", "refused"):
        assert metrics["inference_grammars_total", outcome] == 0


def test_readiness_sequence_limit_and_process_figures_are_reported(tiny_model):
    settings = create_settings(model_name=str(tiny_model()), max_batch_size=3, max_queue_size=5)
    app = create_app(settings)
    before = parse_samples(app.state.service.http_metrics.render("")[0].decode())
    assert before["inference_ready",] == before["inference_sequences_limit",] == 0
    with serve_app(app) as server:
        wait_until(lambda: server.sample("inference_ready") == 1)
        wait_until(lambda: server.sample("inference_sequences_limit") == 8)
        metrics = server.samples()
        assert 0 < time.time() - metrics["process_start_time_seconds",] < 24 * 3600
        assert metrics["process_resident_memory_bytes",] > 2**20


@pytest.mark.parametrize("engine", ["continuous", "reference"])
def test_the_age_and_the_limit_of_a_step_are_reported(start_server, engine):
    """An embedding is one step, during which no other metric changes."""
    server = start_server(engine=engine, hang_timeout_seconds=77)
    gate = Gate()
    server.gates.append(gate)
    decoder = find_decoder(server.engine._lifecycle.loaded.model)
    decoder.forward = partial(gate.forward, decoder.forward)
    body = {"model": server.engine.model_name, "input": "the cat"}
    assert server.sample("inference_step_age_seconds") == 0
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx2.post, server.url + "/v1/embeddings", json=body, timeout=60)
        wait_until(lambda: server.sample("inference_step_age_seconds") > 1)
        assert server.sample("inference_sequences_live") == 1
        gate.open()
        assert answer.result().status_code == 200
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
    "disconnect": {"max_length": 120},
    "disconnect from a stream": {"max_length": 120, "stream": True},
    "too many": {"num_return_sequences": 16},
    "bad": {"max_length": 0},
}


async def storm(url: str, num_requests: int) -> None:
    """Sends requests of all kinds: long ones first, then the others in a fixed random order."""
    first = ["timeout of a stream", *list(STORM)[:3]]
    kinds = [*first, *random.Random(1).choices(list(STORM), k=num_requests - len(first))]

    async def send(client: httpx2.AsyncClient, kind: str, number: int) -> None:
        await asyncio.sleep(number * 0.02)
        body = {"prompt": "the cat", "temperature": 1.5, "top_p": 1} | STORM[kind]
        work = asyncio.ensure_future(client.post("/generate", json=body))
        if kind.startswith("disconnect"):
            await asyncio.wait([work], timeout=0.2)
            work.cancel()
        await asyncio.wait([work])

    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(send(client, kind, number) for number, kind in enumerate(kinds)))


def break_for_poison(server: LocalServer) -> None:
    tokenizer = server.engine._lifecycle.loaded.tokenizer
    poison = tokenizer.token_to_id(POISON)

    def forward(real, input_ids, **kwargs):
        if (input_ids == poison).any():
            raise RuntimeError("made to fail")
        return real(input_ids=input_ids, **kwargs)

    server.break_model(forward)


def test_every_scrape_under_mixed_load_accounts_for_all_sequences(start_server):
    server = start_server(
        max_batch_size=4, max_queue_size=6, timeout_seconds=3, queue_timeout_seconds=0.5
    )
    server.slow_down(0.03)
    break_for_poison(server)

    async def scrape_during_storm() -> list[dict[tuple[str, ...], float]]:
        scrapes = []
        raging = asyncio.ensure_future(storm(server.url, 100))
        async with httpx2.AsyncClient(base_url=server.url, timeout=60) as client:
            while not raging.done():
                scrapes.append(parse_samples((await client.get("/metrics")).text))
                await asyncio.sleep(0.01)
        await raging
        return scrapes

    scrapes = asyncio.run(scrape_during_storm())
    for metrics in scrapes:
        assert_started_are_accounted_for(metrics)
        assert metrics["inference_sequences_running",] <= 4
    assert len({metrics["inference_sequences_live",] for metrics in scrapes}) > 3
    wait_until(lambda: server.sample("inference_sequences_live") == 0)
    # The full queue may have refused all requests that would have failed.
    body = {"prompt": POISON, "max_length": 2}
    assert httpx2.post(server.url + "/generate", json=body, timeout=60).status_code == 500
    metrics = server.samples()
    assert_started_are_accounted_for(metrics)
    for end, reason in (
        ("finished", "length"),
        ("finished", "stop"),
        ("failed", "error"),
        ("failed", "expired"),
        ("aborted", "cancelled"),
        ("aborted", "timeout"),
    ):
        assert metrics.get((f"inference_sequences_{end}_total", reason), 0) > 0, (end, reason)
    wait_until(lambda: num_answered(server) == 101)


def num_answered(server: LocalServer) -> float:
    samples = server.samples().items()
    return sum(value for key, value in samples if key[0] == "inference_requests_total")


def test_counts_of_several_workers_add_up(tmp_path, tiny_model):
    with serve(tmp_path, workers=2, model_name=tiny_model(), timeout_seconds=2) as server:
        server.wait_until("/health/ready")
        wait_until(lambda: server.log.count("ready to serve") == 2, seconds=120)
        asyncio.run(storm(server.url, 60))
        wait_until(lambda: server.sample("inference_sequences_live") == 0)
        metrics = server.samples()
        assert_started_are_accounted_for(metrics)
        assert metrics["inference_sequences_finished_total", "length"] > 0
        for _ in range(8):  # a new connection each time, so both workers get some
            assert server.post({"prompt": "the", "max_length": 3}).status_code == 200
        after = server.samples()
        started = "inference_sequences_started_total"
        assert after[started,] == metrics[started,] + 8
        assert 0 <= after["inference_kv_cache_usage_ratio",] <= 1
        assert server.stop() == 0


def test_gauges_of_a_dead_worker_are_removed_and_its_successor_is_counted(tmp_path, tiny_model):
    with serve(tmp_path, workers=2, model_name=tiny_model(), max_queue_size=8) as server:
        server.wait_until("/health/ready")
        limit = 2 * (32 + 8)  # once both are ready
        wait_until(lambda: server.sample("inference_sequences_limit") == limit, seconds=120)
        started = server.sample("process_start_time_seconds")
        os.kill(workers_of(server)[0], signal.SIGKILL)
        wait_until(lambda: server.sample("process_start_time_seconds") > started, seconds=120)
        wait_until(lambda: server.sample("inference_ready") == 1, seconds=120)
        assert server.sample("inference_sequences_limit") == limit
        assert server.stop() == 0
