"""Metrics have the promised names, count what they say, and do not grow without bound."""

import pytest
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture
def tiny_client(start_client, tiny_model):
    return start_client(model_name=str(tiny_model("gpt2")))


def samples(client) -> dict[tuple[str, ...], float]:
    """All samples of /metrics: (name, label values…) to value."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


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

    tiny_client.app.state.engine._loaded.model.forward = fail
    assert tiny_client.post("/generate", json={"prompt": "the"}).status_code == 500
    assert samples(tiny_client)["inference_requests_total", "/generate", "error"] == 1


def test_random_paths_make_no_new_series(tiny_client):
    tiny_client.get("/random/0")
    before = samples(tiny_client).keys()
    for number in range(1, 50):
        tiny_client.get(f"/random/{number}")
    found = samples(tiny_client)
    assert found.keys() == before
    assert found["inference_requests_total", "__unmatched__", "client_error"] == 50


def test_probes_scrapes_and_documentation_are_no_inference_requests(tiny_client):
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
        assert tiny_client.get(path).status_code == 200
    endpoints = {key[1] for key in samples(tiny_client) if key[0] == "inference_requests_total"}
    assert endpoints == set()


def test_metrics_speak_openmetrics_to_those_who_ask(tiny_client):
    assert tiny_client.get("/metrics").headers["content-type"].startswith("text/plain")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    response = tiny_client.get("/metrics", headers=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
