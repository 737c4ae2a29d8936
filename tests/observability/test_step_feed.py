"""Steps of the engine for live views: what is recorded, for how many, and over HTTP."""

import json
import threading

import httpx2
import pytest

from src.engine.request import EngineStats, StepStats
from src.observability.step_feed import MAX_LISTENERS, MAX_STEPS, StepFeed
from tests.conftest import wait_until
from tests.support.keys import bearer, create_key
from tests.support.servers import LocalServer, parse_events

STEP = StepStats(num_sequences=3, num_tokens=20, seconds=0.005, num_drafted=6, num_accepted=2)


def create_feed(num_decoding: int = 2) -> StepFeed:
    feed = StepFeed()
    for _ in range(num_decoding):
        feed.sequence_decoded()
    return feed


def watch(server: LocalServer, seconds: float = 1) -> list[dict]:
    """Returns the data of all events of a stream."""
    response = server.get(f"/v1/engine/events?seconds={seconds}")
    assert response.status_code == 200, response.text
    return [json.loads(data) for _, data in parse_events(response.text)]


def test_a_step_is_divided_into_prompts_answers_and_drafts():
    feed = create_feed()
    with feed.listen() as steps:
        feed.step_ended(EngineStats(num_running=3), STEP)
        (step,) = steps
    assert (step.num_sequences, step.num_decoding, step.num_prefill_tokens) == (3, 2, 12)
    assert (step.number, step.num_drafted, step.num_accepted, step.milliseconds) == (1, 6, 2, 5)
    assert feed.stats.num_running == 3


def test_steps_without_listeners_are_counted_and_not_recorded():
    feed = create_feed()
    feed.step_ended(EngineStats(), STEP)
    with feed.listen() as steps:
        assert not steps
        feed.step_ended(EngineStats(), None)
        feed.step_ended(EngineStats(), STEP)
    assert [(step.number, step.num_decoding) for step in steps] == [(2, 0)]
    feed.step_ended(EngineStats(), STEP)
    assert len(steps) == 1


def test_a_slow_listener_loses_the_oldest_steps():
    feed = StepFeed()
    with feed.listen() as steps:
        for _ in range(MAX_STEPS + 10):
            feed.step_ended(EngineStats(), STEP)
        assert [step.number for step in steps] == list(range(11, MAX_STEPS + 11))


def test_requests_that_run_together_share_a_step(start_server):
    server = start_server()
    server.slow_down(0.005)
    bodies = [{"prompt": "the", "max_length": 60, "stream": True}] * 8
    running = threading.Thread(target=server.streams, args=(bodies,))
    running.start()
    events = watch(server, 2)
    running.join()
    steps = [step for event in events for step in event["steps"]]
    assert max(step["num_sequences"] for step in steps) == 8
    assert max(step["num_decoding"] for step in steps) == 8
    assert max(event["stats"]["num_running"] for event in events) == 8
    assert all(isinstance(value, int | float) for step in steps for value in step.values())


def test_watching_needs_the_scope_metrics(start_server, tmp_path):
    file = tmp_path / "keys.json"
    keys = {name: create_key(file, name, "--scopes", name) for name in ("generate", "metrics")}
    server = start_server(auth="api_key", api_keys_file=file)
    statuses = {}
    for name in ("generate", "metrics"):
        server.headers = bearer(keys[name])
        statuses[name] = server.get("/v1/engine/events?seconds=0.1").status_code
    assert statuses == {"generate": 403, "metrics": 200}


@pytest.mark.parametrize("seconds", ["0", "-1", "3601", "x", "nan"])
def test_a_bad_length_is_refused(client, seconds):
    response = client.get(f"/v1/engine/events?seconds={seconds}")
    assert response.status_code in (400, 422)


def test_few_clients_watch_at_a_time_and_leave_no_trace(start_server):
    server = start_server()
    feed = server.service.engine_metrics.step_feed
    url = f"{server.url}/v1/engine/events?seconds=60"
    with httpx2.Client(timeout=60) as client:
        streams = [client.stream("GET", url) for _ in range(MAX_LISTENERS)]
        chunks = [stream.__enter__().iter_raw() for stream in streams]
        for first in chunks:
            assert next(first)
        refused = server.get("/v1/engine/events")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        for stream in streams:
            stream.__exit__(None, None, None)
    wait_until(lambda: not feed._listeners)


def test_a_shutdown_ends_the_streams(start_server):
    server = start_server()
    with httpx2.stream("GET", f"{server.url}/v1/engine/events?seconds=600", timeout=60) as stream:
        chunks = stream.iter_raw()
        next(chunks)
        server.service.draining.is_draining = True
        assert all(chunk.startswith(b"data: ") for chunk in chunks)
    server.service.draining.is_draining = False
