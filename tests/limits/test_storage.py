"""Rate limits in a shared Redis that is slow, gone, or back again."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from hashlib import sha1

import pytest
import redis
from prometheus_client import Gauge

from src.errors import LimitStorageDownError, SettingsError
from src.limits.concurrency import Lease, RedisConcurrency
from src.limits.storage import ANSWER_SECONDS, Command, SharedStorage, WaitBudget
from src.limits.token_quota import TAKE
from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.keys import bearer, create_key, id_of
from tests.support.redis_server import Redis
from tests.support.servers import serve

BODY = {"prompt": "the", "max_length": 1}
UP = "inference_rate_limit_storage_up"


def is_up(client) -> bool:
    return f"{UP} 1.0" in client.get("/metrics").text


def with_storage(
    url: str, scenario: Callable[[SharedStorage], Coroutine[None, None, None]]
) -> None:
    """Runs a scenario with a client of Redis that nothing watches over."""

    async def run() -> None:
        shared = SharedStorage(url, Gauge("storage_up", "1 while Redis answers", registry=None))
        try:
            await scenario(shared)
        finally:
            await shared.close()

    asyncio.run(run())


def increment(shared: SharedStorage, key: str = "number") -> Command[int]:
    return Command("tokens", partial(shared.client.incr, key))


async def is_counted(shared: SharedStorage, key: str = "number") -> bool:
    with suppress(LimitStorageDownError):
        await shared.run(increment(shared, key), WaitBudget())
        return True
    return False


async def probed(shared: SharedStorage) -> bool:
    """Waits for the probe that a failure has started; returns True while the breaker is closed."""
    if shared._probe is not None:
        await shared._probe
    return shared.is_up


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


@pytest.mark.parametrize(("policy", "status_code"), [("open", 200), ("closed", 503)])
def test_an_error_reply_for_one_key_concerns_its_requests_alone(
    start_replica, storage, tmp_path, capfd, policy, status_code
):
    file = tmp_path / "keys.json"
    keys = [create_key(file, name) for name in ("one", "other")]
    settings = {"rate_limit_tokens": 100, "rate_limit_storage_failure": policy}
    client = start_replica(auth="api_key", api_keys_file=file, rate_limit_period=3600, **settings)

    def ask(key: str) -> int:
        return client.post("/generate", json=BODY, headers=bearer(key)).status_code

    assert [ask(key) for key in keys] == [200, 200]
    with redis.Redis(port=storage.port) as server:
        (counter,) = server.keys(f"LIMITS:tokens/{id_of(keys[0])}/*")
        server.delete(counter)
        server.rpush(counter, "not a number")
    assert [ask(key) for key in keys * 3] == [status_code, 200] * 3
    lines = capfd.readouterr().err.splitlines()
    (line,) = [line for line in lines if "WRONGTYPE" in line]
    assert "a command that counts tokens" in line
    assert id_of(keys[0]) not in line
    assert "Redis is unavailable" not in "".join(lines)


def test_an_error_reply_leaves_the_circuit_breaker_closed_and_is_logged_once(storage, caplog):
    async def scenario(shared: SharedStorage) -> None:
        await shared.client.rpush("list", "not a number")
        for _ in range(2):
            assert not await is_counted(shared, "list")
            assert await probed(shared)
        assert await is_counted(shared)

    with_storage(storage.url, scenario)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "a command that counts tokens: WRONGTYPE" in caplog.text


def test_an_unknown_command_is_logged_without_its_arguments(storage, caplog):
    async def scenario(shared: SharedStorage) -> None:
        unknown = partial(shared.client.execute_command, "COUNT", "LIMITS:tokens/192.0.2.1")
        with pytest.raises(LimitStorageDownError):
            await shared.run(Command("tokens", unknown), WaitBudget())

    with_storage(storage.url, scenario)
    assert "ERR unknown command 'COUNT'" in caplog.text
    assert "192.0.2.1" not in caplog.text


def test_drops_a_posted_command_that_its_key_refuses(storage, caplog):
    async def scenario(shared: SharedStorage) -> None:
        await shared.client.rpush("list", "not a number")
        shared.post(increment(shared, "list"))
        await asyncio.wait(shared._sending)
        assert shared.is_up
        assert not shared._unsent

    with_storage(storage.url, scenario)
    assert "WRONGTYPE" in caplog.text


def test_renews_the_leases_of_all_other_keys_where_one_is_refused(storage):
    async def scenario(shared: SharedStorage) -> None:
        concurrency = RedisConcurrency(shared)
        for key in ("one", "other"):
            concurrency.hold(Lease(key))
        await shared.client.set("LIMITS:concurrent/one", "not a set")
        await concurrency.renew()
        assert await shared.client.zcard("LIMITS:concurrent/other") == 1

    with_storage(storage.url, scenario)


def refuse_writes(server: redis.Redis) -> Callable[[], object]:
    server.execute_command("REPLICAOF", "127.0.0.1", "1")  # a master that is not there
    return lambda: server.execute_command("REPLICAOF", "NO", "ONE")


def use_up_memory(server: redis.Redis) -> Callable[[], object]:
    server.config_set("maxmemory", 1)
    return lambda: server.config_set("maxmemory", 0)


def run_endless_script(server: redis.Redis) -> Callable[[], object]:
    server.config_set("busy-reply-threshold", 1)

    def run() -> None:
        with suppress(redis.ResponseError), redis.Redis(port=port) as other:
            other.eval("while true do end", 0)

    def is_busy() -> bool:
        with suppress(redis.ResponseError):
            return not server.ping()
        return True

    port = server.get_connection_kwargs()["port"]
    script = threading.Thread(target=run)
    script.start()
    wait_until(is_busy)

    def end() -> None:
        server.script_kill()
        script.join()

    return end


def want_a_password(server: redis.Redis) -> Callable[[], object]:
    server.config_set("requirepass", "secret")
    server.client_kill_filter(_type="normal", skipme=True)
    return lambda: server.config_set("requirepass", "")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (refuse_writes, "read only replica"),
        (use_up_memory, "maxmemory"),
        (run_endless_script, "BUSY"),
        (want_a_password, "Authentication required"),
    ],
)
def test_the_circuit_breaker_is_open_while_redis_refuses_all_commands(
    storage: Redis, caplog, spoil, reason
):
    async def scenario(shared: SharedStorage) -> None:
        assert await is_counted(shared)
        with redis.Redis(port=storage.port) as server:
            mend = spoil(server)
            try:
                assert not await is_counted(shared)
                assert not await probed(shared)
                await shared._run_probes()
                assert not shared.is_up, "a later probe finds Redis down, too"
                shared.post(increment(shared))
                assert len(shared._unsent) == 1
            finally:
                mend()
        await shared._run_probes()
        assert await is_counted(shared)

    with_storage(storage.url, scenario)
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert reason in errors[0]


def test_keeps_a_posted_command_that_a_whole_redis_refuses(storage):
    async def scenario(shared: SharedStorage) -> None:
        with redis.Redis(port=storage.port) as server:
            mend = refuse_writes(server)
            shared.post(increment(shared))
            await asyncio.wait(shared._sending)
            mend()
        assert not shared.is_up
        assert len(shared._unsent) == 1

    with_storage(storage.url, scenario)


def test_a_spent_budget_sends_nothing(storage, redis_proxy):
    async def scenario(shared: SharedStorage) -> None:
        budget = WaitBudget(0.0)
        command = increment(shared)
        with pytest.raises(LimitStorageDownError):
            await shared.run(command, budget, undo=command)
        await shared.close()
        assert budget.seconds == 0
        assert shared.is_up
        assert redis_proxy.commands == b""

    with_storage(redis_proxy.url, scenario)


def test_a_late_answer_is_reported_with_the_time_that_was_left(redis_proxy):
    async def scenario(shared: SharedStorage) -> None:
        redis_proxy.delay = None
        budget = WaitBudget(0.05)
        with pytest.raises(LimitStorageDownError) as raised:
            await shared.run(increment(shared), budget)
        assert str(raised.value.__cause__) == "no answer within 0.05 s"
        assert budget.seconds < 0

    with_storage(redis_proxy.url, scenario)


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
