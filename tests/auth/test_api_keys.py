"""AUTH=api_key on real sockets: accepted and refused requests, and the command for keys."""

import hashlib
import hmac
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest

from src.auth.api_keys import APIKeys, KeyVerifier
from src.errors import AuthenticationError
from tests.conftest import create_settings, wait_until
from tests.limits.test_storage import UP
from tests.support.keys import bearer, create_key, entries, id_of, run_keys
from tests.support.servers import LocalServer, routes_of

PUBLIC = {
    "/",
    "/playground/{version}/{path:path}",
    "/health",
    "/health/live",
    "/health/ready",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    "/openapi.json",
    "/static-offline-docs/swagger-ui.css",
}
UNVERSIONED = ("/tokenize", "/detokenize", "/tokenizer_info", "/rerank", "/score")
"""Paths of OpenAI's family without a version."""

BODIES = {
    "/generate": {"prompt": "the", "max_length": 1},
    "/v1/completions": {"prompt": "the", "max_tokens": 1},
    "/v1/embeddings": {"input": "the"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
}
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@dataclass
class Locked:
    """A server with AUTH=api_key, its file of keys, and a key with the scope admin."""

    server: LocalServer
    file: Path
    admin: str

    def ask(self, path: str, key: str | None = None, **options) -> httpx2.Response:
        options = {"headers": bearer(key)} | options if key else options
        if path in BODIES:
            return self.post(path, BODIES[path], **options)
        return httpx2.get(self.server.url + path, timeout=60, **options)

    def post(self, path: str, body: dict[str, object], **options) -> httpx2.Response:
        body = body if path == "/generate" else {"model": self.server.engine.model_name} | body
        return httpx2.post(self.server.url + path, json=body, timeout=60, **options)


@pytest.fixture
def locked(start_server: Callable[..., LocalServer], tmp_path: Path) -> Locked:
    file = tmp_path / "keys.json"
    admin = create_key(file, "admin", "--scopes", "admin")
    server = start_server(auth="api_key", api_keys_file=file, chat_template=TEMPLATE)
    server.headers = bearer(admin)
    return Locked(server, file, admin)


def assert_refused(response: httpx2.Response, status_code: int, path: str) -> None:
    """Checks a 401 or 403 in the error format of the path's API."""
    kind = {401: "authentication_error", 403: "permission_error"}[status_code]
    assert response.status_code == status_code, (path, response.text)
    assert response.headers["www-authenticate"].startswith('Bearer realm="llm-inference"')
    assert response.headers["x-request-id"]
    body = response.json()
    if path.startswith("/v1/messages"):
        assert (body["type"], body["error"]["type"]) == ("error", kind)
    elif path.startswith(("/v1", "/v2", *UNVERSIONED)):
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["type"] == kind
    else:
        assert set(body) == {"detail"}


def test_every_route_is_closed_but_those_declared_public(locked):
    routes = list(routes_of(locked.server))
    assert {path for _, path in routes} >= PUBLIC | BODIES.keys() | {"/metrics", "/v1/models"}
    with httpx2.Client(base_url=locked.server.url, timeout=60) as client:
        for method, path in routes:
            concrete = path.replace("{model_id:path}", "some/model")
            concrete = concrete.replace("{version}/{path:path}", "0/app.js")
            response = client.request(method, concrete)
            if path in PUBLIC:
                assert response.status_code == 200, path
            elif method == "HEAD":
                assert response.status_code == 401, path
            else:
                assert_refused(response, 401, path)


@pytest.mark.parametrize("path", ["/no/such/path", "/health/", "/v1/uploads", "/HEALTH"])
def test_unknown_paths_need_a_key_too(locked, path):
    assert_refused(locked.ask(path), 401, path)
    assert locked.ask(path, locked.admin).status_code == 404


def test_the_challenge_says_whether_a_key_was_wrong_or_missing(locked):
    assert "error=" not in locked.ask("/generate").headers["www-authenticate"]
    wrong = locked.ask("/generate", "llmk_000000000000_x").headers["www-authenticate"]
    assert wrong.endswith('error="invalid_token"')


def wrong_keys(key: str, other: str) -> list[bytes]:
    head, secret = key.rsplit("_", 1) if key.count("_") == 2 else (key[:17], key[18:])
    other_secret = other[18:]
    texts = [
        "x",
        "llmk_",
        head,
        f"{head}_",
        f"{head}_{secret[:-1]}",
        f"{head}_{secret}x",
        f"{head}_{other_secret}",
        key.upper(),
        "'\"; DROP TABLE keys",
        "x" * 10_000,
        f"{key} {key}",
    ]
    return [text.encode() for text in texts] + [key.encode() + b"\xff", "llmk_\xe9_é".encode()]


def test_only_the_exact_key_is_right(locked):
    key = create_key(locked.file, "one", "--scopes", "generate")
    other = create_key(locked.file, "other", "--scopes", "generate")
    wait_until(lambda: locked.ask("/generate", key).status_code == 200)
    for wrong in wrong_keys(key, other):
        response = locked.ask("/generate", headers={b"Authorization": b"Bearer " + wrong})
        assert_refused(response, 401, "/generate")
    for kind in ("Basic", "bearer-token", "x"):
        headers = {"Authorization": f"{kind} {key}"}
        assert_refused(locked.ask("/generate", headers=headers), 401, "/generate")
    twice = [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {other}")]
    assert_refused(locked.ask("/generate", headers=twice), 401, "/generate")
    assert locked.ask("/generate", headers={"authorization": f"bEaReR {key}"}).status_code == 200


@pytest.mark.parametrize(
    ("scope", "opens"),
    [
        ("generate", {"/generate", "/v1/completions", "/v1/messages"}),
        ("embeddings", {"/v1/embeddings"}),
        ("metrics", {"/metrics"}),
        ("admin", {"/metrics", *BODIES}),
    ],
)
def test_a_scope_opens_its_routes_and_no_others(locked, scope, opens):
    key = create_key(locked.file, scope, "--scopes", scope)
    wait_until(lambda: locked.ask("/v1/models", key).status_code == 200)
    for path in ("/metrics", "/a/path/nobody/has/opened", *BODIES):
        response = locked.ask(path, key)
        if scope == "admin" and path.startswith("/a/"):
            assert response.status_code == 404
        elif path in opens:
            assert response.status_code == 200, response.text
        else:
            assert_refused(response, 403, path)
            assert 'error="insufficient_scope"' in response.headers["www-authenticate"]


def test_the_clients_of_openai_and_anthropic_authenticate(locked):
    model = locked.server.engine.model_name
    with openai.OpenAI(base_url=locked.server.url + "/v1", api_key=locked.admin) as client:
        assert client.completions.create(model=model, prompt="the", max_tokens=1).choices
    with openai.OpenAI(base_url=locked.server.url + "/v1", api_key="sk-no") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
    for name in ("api_key", "auth_token"):
        messages = [{"role": "user", "content": "hi"}]
        with anthropic.Anthropic(base_url=locked.server.url, **{name: locked.admin}) as client:
            answer = client.messages.create(model=model, max_tokens=1, messages=messages)
            assert answer.usage.output_tokens == 1
        with (
            anthropic.Anthropic(base_url=locked.server.url, **{name: "sk-no"}) as client,
            pytest.raises(anthropic.AuthenticationError),
        ):
            client.messages.create(model=model, max_tokens=1, messages=messages)


def test_x_api_key_counts_on_anthropics_routes_alone(locked):
    headers = {"x-api-key": locked.admin}
    assert locked.ask("/v1/messages", headers=headers).status_code == 200
    assert_refused(locked.ask("/generate", headers=headers), 401, "/generate")


def test_every_key_is_compared_once_by_its_whole_hash_in_constant_time(tmp_path, monkeypatch):
    file = tmp_path / "keys.json"
    key = create_key(file, "one")
    verifier = KeyVerifier(APIKeys.parse(file.read_text()))
    compared: list[tuple[str, str]] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *two: compared.append(two) or compare(*two))
    of_unknown = hashlib.sha256(b"").hexdigest()
    known = str(entries(file)[0]["sha256"])
    for credential, expected in {
        key: known,
        key[:-1]: known,
        key[:-1] + "\n": known,
        key.replace(id_of(key), "0" * 12): of_unknown,
        "sk-other": of_unknown,
    }.items():
        with nullcontext() if credential == key else pytest.raises(AuthenticationError):
            verifier.find(credential.encode())
        assert compared.pop() == (hashlib.sha256(credential.encode()).hexdigest(), expected)
        assert not compared


def test_a_key_is_shown_once_and_kept_by_its_hash(tmp_path):
    file = tmp_path / "keys.json"
    key = create_key(file, "team a", "--scopes", "generate,metrics", "--requests", "5")
    assert re.fullmatch(r"llmk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", key)
    assert key[18:] not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    listed = run_keys(file, "list").stdout
    assert id_of(key) in listed
    assert "team a" in listed
    assert "requests=5" in listed
    assert key[18:] not in listed
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"], "no temporary file"


def test_list_prints_expiry_weight_and_limits(tmp_path):
    file = tmp_path / "keys.json"
    all_options = [
        "--days",
        "30",
        "--weight",
        "3",
        "--tokens",
        "70",
        "--requests",
        "5",
        "--concurrent=2",
    ]
    for name, options in (("plain", ()), ("team b", all_options)):
        create_key(file, name, *options)
    plain, limited = run_keys(file, "list").stdout.splitlines()
    today = r"20\d\d-\d\d-\d\d"
    assert re.fullmatch(rf"[0-9a-f]{{12}} valid {today} embeddings,generate plain", plain)
    expires = entries(file)[-1]["expires_at"]
    assert limited.partition("embeddings,generate")[2] == (
        f" expires={expires[:16]}Z weight=3 requests=5 tokens=70 concurrent=2 team b"
    )


def test_keys_come_and_go_while_the_service_runs(locked):
    key = create_key(locked.file, "new")
    wait_until(lambda: locked.ask("/generate", key).status_code == 200)
    assert run_keys(locked.file, "revoke", id_of(key)).returncode == 0
    wait_until(lambda: locked.ask("/generate", key).status_code == 401)
    assert locked.ask("/generate", locked.admin).status_code == 200
    assert "revoked" in run_keys(locked.file, "list").stdout
    again = run_keys(locked.file, "revoke", id_of(key))
    assert again.returncode == 1
    assert "no key" in again.stderr


def test_a_key_expires(locked):
    key = create_key(locked.file, "short", "--days", "1")
    wait_until(lambda: locked.ask("/generate", key).status_code == 200)
    expires_at = entries(locked.file)[-1]["expires_at"]
    text = locked.file.read_text().replace(str(expires_at), "2020-01-01T00:00:00Z")
    locked.file.write_text(text)
    wait_until(lambda: locked.ask("/generate", key).status_code == 401)


@pytest.mark.parametrize("name", ["", "team\nb valid", "\x1b[2J", "x" * 101])
def test_a_name_must_be_one_printable_line(tmp_path, name):
    file = tmp_path / "keys.json"
    done = run_keys(file, "create", name)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: name: ")
    assert not file.exists()
    assert create_key(file, "Büro 7 · 東京")


@pytest.mark.parametrize("days", ["0", "-1", "1.5", "36501"])
def test_days_must_be_from_1_to_36500(tmp_path, days):
    file = tmp_path / "keys.json"
    done = run_keys(file, "create", "short", f"--days={days}")
    assert done.returncode == 2
    assert "'--days'" in done.stderr
    assert not file.exists()


def test_a_broken_file_keeps_the_last_keys_and_is_logged_once(locked, caplog):
    whole = locked.file.read_text()
    locked.file.write_text(whole[:-20])
    wait_until(lambda: "cannot be used" in caplog.text)
    assert locked.ask("/generate", locked.admin).status_code == 200
    locked.file.unlink()
    wait_until(lambda: "No such file" in caplog.text)
    assert locked.ask("/generate", locked.admin).status_code == 200
    assert id_of(locked.admin) not in caplog.text.replace("caller", "")
    os.mkfifo(locked.file)
    wait_until(lambda: "it is not a regular file" in caplog.text)
    locked.file.unlink()
    locked.file.write_text(whole.replace(id_of(locked.admin), "0" * 12))
    wait_until(lambda: locked.ask("/generate", locked.admin).status_code == 401)
    locked.file.write_text(whole)
    wait_until(lambda: locked.ask("/generate", locked.admin).status_code == 200)


def test_metrics_and_models_are_served_while_redis_is_down(start_server, storage, tmp_path):
    file = tmp_path / "keys.json"
    admin = create_key(file, "admin", "--scopes", "admin")
    counting = {"rate_limit_storage": storage.url, "rate_limit_storage_failure": "closed"}
    server = start_server(auth="api_key", api_keys_file=file, **counting)
    server.headers = bearer(admin)
    assert server.sample(UP) == 1
    storage.stop()
    wait_until(lambda: server.post({"prompt": "the", "max_length": 1}).status_code == 503)
    assert server.sample(UP) == 0
    assert server.get("/v1/models").status_code == 200
    wrong = httpx2.get(server.url + "/metrics", headers=bearer("llmk_000000000000_x"))
    assert wrong.status_code == 401


def test_keys_can_come_from_the_environment(start_server, tmp_path):
    file = tmp_path / "keys.json"
    key = create_key(file, "admin", "--scopes", "admin")
    server = start_server(auth="api_key", api_keys=file.read_text())
    assert server.post({"prompt": "the"}).status_code == 401
    server.headers = bearer(key)
    assert server.post({"prompt": "the", "max_length": 1}).status_code == 200


def test_openapi_names_the_headers_for_keys(locked):
    document = locked.ask("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert schemes["x-api-key"]["in"] == "header"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            is_open = path in PUBLIC
            assert ("security" in operation) != is_open, path
            assert ("401" in operation["responses"]) != is_open, path
    messages = document["paths"]["/v1/messages"]["post"]
    assert messages["security"] == [{"bearer": []}, {"x-api-key": []}]


def test_openapi_has_no_security_schemes_without_authentication(shared_server):
    document = shared_server.get("/openapi.json").json()
    assert "securitySchemes" not in document["components"]
    assert "401" not in document["paths"]["/generate"]["post"]["responses"]
    assert shared_server.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the whole"),
        ("[]", "the whole"),
        ('{"keys": [{"id": "1", "secret": "x"}]}', "keys.0"),
    ],
)
def test_malformed_keys_end_the_start_and_are_not_quoted(tmp_path, text, problem):
    from src.errors import SettingsError
    from src.main import create_app

    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match=f"API_KEYS_FILE=.*{problem}") as caught:
        create_app(create_settings(auth="api_key", api_keys_file=file))
    assert "secret" not in str(caught.value).replace("keys.0.secret", "")
