"""The limit on generation requests per client."""

import pytest

from src.config import Settings
from tests.conftest import wait_until
from tests.support.servers import serve


@pytest.fixture
def limited_client(start_client, tiny_model):
    return start_client(
        model_name=str(tiny_model("gpt2")), rate_limit_requests=3, rate_limit_period=60
    )


def limited_routes(client) -> list[str]:
    """Returns the paths of all routes with POST."""
    openapi = client.get("/openapi.json").json()["paths"]
    return [path for path, operations in openapi.items() if "post" in operations]


def test_every_generation_route_is_limited_and_shares_one_count(limited_client):
    body = {"prompt": "the", "max_length": 1}
    for _ in range(3):
        assert limited_client.post("/generate", json=body).status_code == 200
    routes = limited_routes(limited_client)
    assert "/generate/batch" in routes
    for route in routes:
        response = limited_client.post(route, json={})
        assert response.status_code == 429, route
        assert 1 <= int(response.headers["retry-after"]) <= 60
        assert "3 requests per 60 seconds" in response.text
    counted = 'inference_requests_total{endpoint="/generate",status="rate_limited"} 1.0'
    assert counted in limited_client.get("/metrics").text


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({}, None),
        ({"host": "::1"}, None),
        ({"host": "localhost"}, None),
        ({"rate_limit_requests": "10"}, 10),
        ({"host": "0.0.0.0"}, 10),
        ({"host": "example.com"}, 10),
        ({"environment": "production", "auth": "none"}, 10),
    ],
)
def test_development_on_loopback_has_no_limit_unless_it_is_set(monkeypatch, settings, limit):
    monkeypatch.delenv("RATE_LIMIT_REQUESTS", raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name.upper(), value)
    assert Settings(_env_file=None).request_limit == limit


def test_a_server_started_without_settings_does_not_limit(tmp_path, tiny_model):
    with serve(tmp_path, model_name=tiny_model(), rate_limit_requests="") as server:
        server.wait_until("/health/ready")
        answers = [server.post({"prompt": "the", "max_length": 1}) for _ in range(12)]
    assert {answer.status_code for answer in answers} == {200}
    assert "ratelimit" not in answers[-1].headers


def test_a_429_names_the_setting(limited_client):
    answers = [limited_client.post("/generate", json={}) for _ in range(4)]
    assert "RATE_LIMIT_REQUESTS" in answers[-1].json()["detail"]


def test_bad_requests_count_too(limited_client):
    bodies = [
        {"json": {}},
        {"content": b"{", "headers": {"Content-Type": "application/json"}},
        {"content": b"prompt=a", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        {"json": {"prompt": "the"}},
    ]
    statuses = [limited_client.post("/generate", **body).status_code for body in bodies]
    assert statuses == [422, 422, 415, 429]


def test_slowapis_own_environment_variables_change_nothing(monkeypatch, start_client, tiny_model):
    monkeypatch.setenv("RATELIMIT_ENABLED", "false")
    client = start_client(model_name=str(tiny_model("gpt2")), rate_limit_requests=1)
    statuses = [client.post("/generate", json={}).status_code for _ in range(2)]
    assert statuses == [422, 429]


def test_health_and_metrics_are_never_limited(limited_client):
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/openapi.json"):
        for _ in range(5):
            assert limited_client.get(path).status_code == 200


def test_requests_are_allowed_again_after_the_window(start_client, tiny_model):
    client = start_client(
        model_name=str(tiny_model("gpt2")), rate_limit_requests=1, rate_limit_period=1
    )
    body = {"prompt": "the", "max_length": 1}
    assert client.post("/generate", json=body).status_code == 200
    assert client.post("/generate", json=body).status_code == 429
    wait_until(lambda: client.post("/generate", json=body).status_code == 200, seconds=10)
