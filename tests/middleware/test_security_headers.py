"""Security headers of every answer, and cross-origin requests (CORS)."""

import re
import socket
from pathlib import Path

import httpx2
import pytest

from src.middleware.security_headers import PLAYGROUND_POLICY
from tests.conftest import create_settings
from tests.faults.asking import talk
from tests.support.keys import bearer, create_key
from tests.support.servers import LocalServer, Server, broken_metrics, routes_of

ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGES = ("/docs", "/redoc", "/docs/oauth2-redirect")
BODY = {"prompt": "the", "max_length": 1}
ORIGIN = "https://app.example.com"


def assert_headers(response: httpx2.Response, path: str) -> None:
    headers = response.headers
    assert dict(headers).items() >= ALWAYS.items(), path
    assert headers.get_list("server") == [], path
    assert len(headers.get_list("content-security-policy")) == 1, path
    if path == "/":
        assert headers["content-security-policy"] == PLAYGROUND_POLICY
    elif path in PAGES:
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in re.search("script-src.*?;", headers["content-security-policy"])[0]
    else:
        assert headers["content-security-policy"] == API_POLICY, path
    if not path.startswith("/static-offline-docs/"):
        assert headers.get_list("cache-control") == ["no-store"], path


def test_every_route_sends_them_with_a_key_and_without(start_server, tmp_path):
    file = tmp_path / "keys.json"
    admin = create_key(file, "admin", "--scopes", "admin")
    server = start_server(auth="api_key", api_keys_file=file)
    server.headers = bearer(admin)
    routes = list(routes_of(server))
    assert len(routes) > 15
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        for headers in ({}, server.headers):
            for method, path in routes:
                response = client.request(method, path, headers=headers)
                assert_headers(response, path)


def test_every_status_has_them(start_server):
    server = start_server(rate_limit_requests=6)
    requests = {
        200: lambda: server.post(BODY),
        404: lambda: server.get("/no/such/path"),
        405: lambda: server.get("/generate"),
        413: lambda: server.post({"prompt": "x" * 2**21}),
        415: lambda: httpx2.post(server.url + "/generate", data={"prompt": "the"}),
        422: lambda: server.post({}),
        504: lambda: _while_slow(server),
        429: lambda: server.post(BODY),
    }
    with httpx2.stream("POST", server.url + "/generate", json=BODY | {"stream": True}) as stream:
        assert_headers(stream, "/generate")
        assert stream.read().endswith(b"[DONE]\n\n")
    for status, answer in requests.items():
        response = answer()
        assert response.status_code == status
        assert_headers(response, "/generate")


def _while_slow(server: LocalServer) -> httpx2.Response:
    server.engine._timeout_seconds = 1e-6  # less than tokenization takes
    return server.post(BODY | {"max_length": 50})


def test_an_unhandled_error_has_them(start_server):
    server = start_server()
    with broken_metrics(server.service):
        response = server.get("/metrics")
    assert response.status_code == 500
    assert_headers(response, "/metrics")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("no http\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: ", 408),
        ("GET /health HTTP/1.1\r\nHost: " + "x" * 40_000, 431),
    ],
)
def test_refusals_by_the_connection_have_them(start_server, sent, status):
    response = talk(start_server(receive_timeout_seconds=1), [sent])
    assert response.status_code == status
    assert_headers(response, "/health")


def test_no_answer_names_the_server_software(server: Server):
    assert_headers(server.get("/health"), "/health")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"no http\r\n\r\n")
        assert b"server:" not in connection.recv(1000).lower()


def preflight(client: httpx2.Client, origin: str = ORIGIN, method: str = "POST") -> httpx2.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
    }
    return client.options("/v1/chat/completions", headers=headers)


@pytest.fixture
def cross_origin(start_client, tiny_model, tmp_path: Path):
    """A client of an app that allows ORIGIN, and the app's only key."""
    file = tmp_path / "keys.json"
    key = create_key(file, "page")
    settings = {"model_name": str(tiny_model()), "auth": "api_key", "api_keys_file": file}
    origins = f"{ORIGIN}, http://localhost:3000"
    return start_client(cors_origins=origins, rate_limit_requests=2, **settings), key


def test_a_preflight_needs_no_key(cross_origin):
    client, _ = cross_origin
    for origin in (ORIGIN, "http://localhost:3000"):
        answer = preflight(client, origin)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        allowed = answer.headers["access-control-allow-headers"]
        assert allowed == "authorization,content-type,x-stainless-os"
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers["vary"]
        assert_headers(answer, "/v1/chat/completions")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example.com", ORIGIN + ".evil.example", "null"]
)
def test_pages_of_other_origins_are_not_allowed(cross_origin, origin):
    client, key = cross_origin
    assert preflight(client, origin).status_code == 400
    answer_to_post = client.post("/generate", json=BODY, headers=bearer(key) | {"Origin": origin})
    for answer in (preflight(client, origin), answer_to_post):
        assert "access-control-allow-origin" not in answer.headers
    assert preflight(client, method="PUT").status_code == 400


def test_a_page_can_read_answers_and_refusals(cross_origin):
    client, key = cross_origin
    origin = {"Origin": ORIGIN}
    answers = [client.post("/generate", json=BODY, headers=origin | bearer(key)) for _ in range(3)]
    answers.append(client.post("/generate", json=BODY, headers=origin))
    with broken_metrics(client.app.state.service):
        answers.append(client.get("/metrics", headers=origin | bearer(key)))
    assert [answer.status_code for answer in answers] == [200, 200, 429, 401, 403]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {"x-request-id", "retry-after", "ratelimit", "ratelimit-policy"} <= set(exposed)


def test_a_page_can_read_an_unhandled_error(start_client, tiny_model):
    client = start_client(model_name=str(tiny_model()), cors_origins=ORIGIN)
    with broken_metrics(client.app.state.service):
        answer = client.get("/metrics", headers={"Origin": ORIGIN})
    assert answer.status_code == 500
    assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_a_page_can_read_a_stream(start_server):
    server = start_server(cors_origins=ORIGIN)
    gate = server.hold()
    gate.permit(1)
    body = BODY | {"max_length": 3, "stream": True}
    headers = {"Origin": ORIGIN}
    with httpx2.stream("POST", server.url + "/generate", json=body, headers=headers) as stream:
        assert stream.headers["access-control-allow-origin"] == ORIGIN
        events = stream.iter_raw()
        assert next(events).startswith(b"data: ")  # before the model continues
        gate.open()
        assert b"".join(events).endswith(b"[DONE]\n\n")


def test_without_the_setting_no_origin_is_allowed(client):
    assert preflight(client).status_code in (405, 401)
    answer = client.get("/health", headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_any_origin_can_be_allowed_with_keys(start_client, tiny_model, tmp_path):
    file = tmp_path / "keys.json"
    key = create_key(file, "page")
    settings = {"model_name": str(tiny_model()), "auth": "api_key", "api_keys_file": file}
    client = start_client(cors_origins="*", **settings)
    headers = bearer(key) | {"Origin": "https://any.example"}
    answer = client.post("/generate", json=BODY, headers=headers)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origins",
    [
        "*",
        "app.example.com",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://App.example.com",
        "https://app.example.com:443",
        "http://app.example.com:80",
        "https://*.example.com",
        "https://user@app.example.com",
        "null",
        "*,https://app.example.com",
        "https://one.example;https://two.example",
    ],
)
def test_an_invalid_origin_is_refused(origins):
    with pytest.raises(ValueError, match="CORS_ORIGINS"):
        create_settings(cors_origins=origins)


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "https://[::1]:8443", "https://a-b.example", ORIGIN]
)
def test_an_origin_as_browsers_send_it_is_accepted(origin):
    assert create_settings(cors_origins=origin).cors_origin_list == [origin]
