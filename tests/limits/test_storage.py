"""Rate limits in a shared Redis that is slow, gone, or back again."""

from hashlib import sha1

import pytest

from src.errors import SettingsError
from src.limits.storage import ANSWER_SECONDS
from src.limits.token_quota import TAKE
from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.keys import bearer, create_key
from tests.support.servers import serve

BODY = {"prompt": "the", "max_length": 1}
UP = "inference_rate_limit_storage_up"


def is_up(client) -> bool:
    return f"{UP} 1.0" in client.get("/metrics").text


def test_replicas_share_one_count(start_replica):
    first, second = (start_replica(rate_limit_requests=3) for _ in range(2))
    clients = (first, second, first, second, first)
    answers = [client.post("/generate", json=BODY) for client in clients]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert "3 requests per 60 seconds" in answers[-1].text


def test_workers_share_one_count(storage, tmp_path):
    settings = {"workers": 2, "rate_limit_storage": storage.url, "rate_limit_requests": 3}
    with serve(tmp_path, **settings) as server:
        server.wait_until("/health/ready")
        wait_until(lambda: server.log.count("ready to serve") == 2, seconds=120)
        statuses = [server.post(BODY).status_code for _ in range(6)]
        assert statuses == [200, 200, 200, 429, 429, 429]
        assert "counted in each worker" not in server.log


@pytest.mark.parametrize(("policy", "status_code"), [("open", 200), ("closed", 503)])
def test_the_failure_policy_holds_for_a_silent_redis(
    start_replica, redis_proxy, policy, status_code
):
    redis_proxy.delay = None
    settings = {"rate_limit_storage": redis_proxy.url, "rate_limit_storage_failure": policy}
    client = start_replica(rate_limit_tokens=100, **settings)
    answers = [client.post("/generate", json=BODY) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [status_code] * 4
    wait_until(lambda: not is_up(client))
    assert redis_proxy.commands
    redis_proxy.delay = 0
    wait_until(lambda: is_up(client))


def test_one_late_answer_affects_one_request(start_replica, redis_proxy):
    """A worker on busy cores reads some answers late, and its limits must still hold."""
    client = start_replica(
        rate_limit_storage=redis_proxy.url, rate_limit_storage_failure="open", rate_limit_requests=2
    )
    assert client.post("/generate", json=BODY).status_code == 200
    redis_proxy.delay = 2 * ANSWER_SECONDS
    assert (
        client.post("/generate", json=BODY).status_code == 200
    )  # uncounted, as the answer is late
    redis_proxy.delay = 0
    assert client.post("/generate", json=BODY).status_code in (200, 429)
    assert client.post("/generate", json=BODY).status_code == 429
    assert is_up(client)


def test_all_questions_of_a_request_share_one_time_to_wait(start_replica, redis_proxy, tmp_path):
    """With a key there are three counts: its address, its requests, its tokens."""
    file = tmp_path / "keys.json"
    headers = bearer(create_key(file, "one", "--scopes", "admin"))
    client = start_replica(
        auth="api_key",
        api_keys_file=file,
        rate_limit_storage=redis_proxy.url,
        rate_limit_storage_failure="closed",
        rate_limit_tokens=100,
    )

    def ask() -> int:
        wait_until(lambda: f"{UP} 1.0" in client.get("/metrics", headers=headers).text)
        return client.post("/generate", json=BODY, headers=headers).status_code

    assert ask() == 200
    take_tokens = sha1(TAKE.encode()).hexdigest().encode()
    assert take_tokens in redis_proxy.commands
    redis_proxy.delay = 0.6 * ANSWER_SECONDS  # one answer is within the budget, two are not
    redis_proxy.commands = b""
    assert ask() == 503
    assert take_tokens not in redis_proxy.commands, "the budget is spent before"
    redis_proxy.delay = 0
    wait_until(lambda: ask() == 200)


def test_a_503_without_redis_has_retry_after(start_replica, storage):
    client = start_replica(rate_limit_storage_failure="closed")
    storage.stop()
    answer = client.post("/v1/completions", json={"prompt": "the"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"] == {
        "message": "The rate-limit storage is unavailable; try again later.",
        "type": "server_error",
        "param": None,
        "code": "unavailable",
    }


def test_requests_are_counted_again_when_redis_is_back(start_replica, storage):
    client = start_replica(rate_limit_requests=1, rate_limit_storage_failure="closed")
    storage.stop()
    wait_until(lambda: not is_up(client))
    storage.start()
    wait_until(lambda: is_up(client))
    statuses = [client.post("/generate", json=BODY).status_code for _ in range(2)]
    assert statuses == [200, 429]


def test_the_service_starts_without_redis(start_replica, storage):
    storage.stop()
    client = start_replica(rate_limit_requests=1)
    assert [client.post("/generate", json=BODY).status_code for _ in range(3)] == [200] * 3
    wait_until(lambda: not is_up(client))


@pytest.mark.parametrize("value", ["mongodb://host", "redis:/host", "redis://", "Memory"])
def test_another_kind_of_storage_is_refused(value):
    with pytest.raises(ValueError, match="rate_limit_storage"):
        create_settings(rate_limit_storage=value)


def test_a_malformed_url_is_refused():
    with pytest.raises(SettingsError, match="RATE_LIMIT_STORAGE must be memory or the URL"):
        create_app(create_settings(rate_limit_storage="redis://host:port"))
