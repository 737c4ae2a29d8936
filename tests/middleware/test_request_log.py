"""Request ids, the access log, and the answer to an unhandled error."""

import json
import re

import httpx2
import pytest
from fastapi.testclient import TestClient

from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.servers import broken_metrics


def test_a_request_id_is_returned(client):
    response = client.get("/health", headers={"X-Request-ID": "my-id:1"})
    assert response.headers["x-request-id"] == "my-id:1"


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "a\tb", "<script>"])
def test_an_invalid_request_id_is_replaced(client, bad):
    response = client.get("/health", headers={"X-Request-ID": bad})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


def test_an_unhandled_error_answers_500_with_an_id_only(start_client, tiny_model, capfd):
    client = start_client(model_name=str(tiny_model("gpt2")))
    with broken_metrics(client.app.state.service):
        response = client.get("/metrics")
    assert response.status_code == 500
    assert response.json() == {"detail": "Internal server error."}
    assert response.headers["x-request-id"] in capfd.readouterr().err


def test_a_stream_logs_one_line_with_its_final_status(start_server, capfd):
    server = start_server(environment="production")
    body = {"prompt": "the cat", "max_length": 3, "stream": True}

    log: list[str] = []

    def statuses(request_id: str) -> list[int]:
        log.extend(capfd.readouterr().err.splitlines())
        return [
            event["status"]
            for event in map(json.loads, log)
            if event.get("request_id") == request_id and event["event"] == "request"
        ]

    assert server.post(body, headers={"X-Request-ID": "whole"}).status_code == 200
    wait_until(lambda: statuses("whole") == [200])
    steps = iter(range(2))

    def fail(real, *args: object, **kwargs: object) -> object:
        if next(steps, None) is None:
            raise RuntimeError("made to fail")
        return real(*args, **kwargs)

    server.break_model(fail)
    assert server.post(body, headers={"X-Request-ID": "broken"}).status_code == 200
    wait_until(lambda: statuses("broken") == [500])


def test_probes_are_logged_at_debug_level_even_while_the_model_loads(tiny_model, capfd):
    app = create_app(create_settings(model_name=str(tiny_model()), environment="production"))
    client = TestClient(app)  # without its lifespan, so no model loads
    assert client.get("/health/ready").status_code == 503
    assert client.post("/generate", json={"prompt": "the"}).status_code == 503
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    logged = [line["endpoint"] for line in lines if line["logger"] == "src.access"]
    assert logged == ["/generate"]


def test_a_refused_preflight_names_the_setting_in_the_log(start_server, capfd):
    server = start_server(environment="production")
    headers = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    hints: dict[str, str | None] = {}

    def read_log() -> None:
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
        for event in map(json.loads, lines):
            if event["event"] == "request":
                hints[event["method"]] = event.get("hint")

    assert httpx2.options(server.url + "/v1/models", headers=headers).status_code == 405
    assert httpx2.put(server.url + "/v1/models").status_code == 405
    wait_until(lambda: read_log() or hints.keys() >= {"OPTIONS", "PUT"})
    assert "CORS_ORIGINS" in (hints["OPTIONS"] or "")
    assert hints["PUT"] is None
