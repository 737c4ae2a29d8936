"""Models, apps and servers that many tests share."""

import os
import shutil

from src.engine.model.runtime_env import torch_environment

os.environ.update(torch_environment("auto") | os.environ)  # before torch is there

# All is asked in plain HTTP, and each new client reads all the certificates that there are, for
# 20 ms: so there are none.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = os.devnull

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from transformers import AutoConfig, AutoModelForCausalLM

from src.config import Settings
from src.main import create_app
from src.observability.event_loop_watchdog import EventLoopWatchdog
from src.server import lifespan
from tests.support.redis_server import Redis, RedisProxy
from tests.support.servers import LocalServer, Server, free_port, serve, serve_app
from tests.support.tiny_models import CONTEXT, SHAPE, create_model_folder, create_tokenizer
from tests.support.tools import TEMPLATES

BATCH_DIR = Path(tempfile.gettempdir()) / f"llm-inference-tests-{os.getpid()}"
"""Folder of files and batches of tests that name none."""

SERVING_NAMES = {"serve", "serve_app", "create_app", "TestClient", "subprocess"}
SERVING_FIXTURES = {
    *("client", "server", "start_client", "start_server", "start_replica", "shared_server"),
    *("tool_server", "storage", "redis_proxy"),
}
"""A module that imports one of the names, or a test with one of the fixtures, starts servers."""

PROGRAMS = {
    "redis-server": "redis-server",
    "promtool": "prometheus",
    "nginx": "nginx-light",
    "npm": "npm",
    "chromium": "chromium",
}
"""Programs that some tests need, and Debian's packages of them."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says in one line what would let skipped tests run."""
    packages = [name for program, name in PROGRAMS.items() if shutil.which(program) is None]
    if packages and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line(
            f"Some tests were skipped: Debian's packages {' '.join(packages)} let more of them run,"
            " and `make clients`."
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The last file takes long: begun at the end, it would keep one process of two from working."""
    items.sort(key=lambda item: item.path.name != "test_workers.py")
    for item in items:
        assert isinstance(item, pytest.Function)
        if SERVING_NAMES & vars(item.module).keys() or SERVING_FIXTURES & {*item.fixturenames}:
            item.add_marker("server")


@pytest.fixture(scope="session", autouse=True)
def remove_batches() -> Iterator[None]:
    """Removes the folder after all tests."""
    yield
    shutil.rmtree(BATCH_DIR, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def signals_reach_servers() -> None:
    """Under nohup, and in the background of a shell script, what this process starts would ignore
    signals, which it inherits; a handler is as good for us and is not inherited."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST_HOLD = 5
"""Seconds for which no event loop of this process may be held, on a machine with other work."""


@pytest.fixture(autouse=True)
def event_loops_are_not_held(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fails a test of an app in which the app's event loop was held for seconds.

    Other tests may hold the GIL, and so the loop of an app that an earlier test has started.
    """
    lags = [0.0]
    record = EventLoopWatchdog.record

    def record_too(watch: EventLoopWatchdog, seconds: float) -> None:
        lags.append(seconds)
        record(watch, seconds)

    monkeypatch.setattr(EventLoopWatchdog, "record", record_too)
    yield
    if request.node.get_closest_marker("server") is None:
        return
    assert max(lags) < LONGEST_HOLD, f"an event loop was held for {max(lags):.1f} s"


@pytest.fixture(autouse=True)
def no_app_ends_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test of an app that would have ended its process, which here is that of the tests."""
    statuses: list[int] = []
    monkeypatch.setattr(lifespan, "end_process", statuses.append)
    yield
    assert not statuses, f"an app would have ended the process with status {statuses[0]}"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a tiny random model of an architecture, made once."""
    made: dict[str, Path] = {}

    def get(architecture: str = "gpt2") -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[architecture] = create_model_folder(folder, architecture)
        return made[architecture]

    return get


@pytest.fixture(scope="session")
def reciting_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a model that continues a prompt of one token with a text, again and
    again: its tokens follow from their positions alone. Further special tokens may be in it."""

    def create(text: str, *special: str) -> Path:
        tokenizer = create_tokenizer(*special)
        token_ids = tokenizer(text)["input_ids"]
        shape = SHAPE | {"hidden_size": CONTEXT, "tie_word_embeddings": False}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **shape))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.transformer.wpe.weight.copy_(torch.eye(CONTEXT))
            model.transformer.ln_f.weight.fill_(1)
            for position in range(CONTEXT):
                model.lm_head.weight[token_ids[position % len(token_ids)], position] = 10
        folder = tmp_path_factory.mktemp("reciting")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return create


@pytest.fixture(scope="session")
def roomy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with room for lists of tools."""
    folder = tmp_path_factory.mktemp("roomy")
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", **SHAPE | {"max_position_embeddings": 2048})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    create_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads, which on a busy machine wait for one another."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module", params=TEMPLATES)
def tool_server(
    request: pytest.FixtureRequest, one_thread: None, roomy_model: Path
) -> Iterator[LocalServer]:
    """A server with a random model that calls tools, for each of the known tool call formats."""
    template = TEMPLATES[request.param]
    settings = create_settings(model_name=str(roomy_model), chat_template=template, kv_cache_gb=0.1)
    with serve_app(create_app(settings)) as server:
        yield server
        wait_until(lambda: server.engine.num_live == 0)


def create_settings(**values: object) -> Settings:
    """Settings that neither this machine's environment nor an `.env` can change.

    Unknown fields are refused, so that a test cannot set one by a slip of the pen.
    """
    defaults = {
        "model_name": "storyteller",
        "rate_limit_requests": 10**6,
        "auth": "none",
        "unknown_fields": "refuse",
        "batch_dir": BATCH_DIR,
    }
    return Settings(_env_file=None, **(defaults | values))  # type: ignore[call-arg]


@pytest.fixture
def start_client() -> Iterator[Callable[..., TestClient]]:
    """Returns a client of an app with these settings, in this process, when its model is loaded."""
    with ExitStack() as stack:

        def start(**values: object) -> TestClient:
            client = TestClient(create_app(create_settings(**values)))
            stack.enter_context(client)
            wait_until(lambda: client.get("/health/ready").status_code == 200)
            return client

        yield start


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Redis]:
    """CI installs Redis; elsewhere a test without it is skipped."""
    if shutil.which("redis-server") is None:
        message = "needs redis-server: Debian's package of that name"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    server = Redis(free_port(), tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_proxy(storage: Redis) -> Iterator[RedisProxy]:
    proxy = RedisProxy(storage.port)
    yield proxy
    proxy.close()


@pytest.fixture
def start_replica(start_client, tiny_model, storage: Redis) -> Callable[..., TestClient]:
    """Returns `start_client` for processes that count rate limits in the same Redis."""

    def start(**settings: object) -> TestClient:
        defaults = {"model_name": str(tiny_model("gpt2")), "rate_limit_storage": storage.url}
        return start_client(**(defaults | settings))

    return start


@pytest.fixture
def start_server(tiny_model) -> Iterator[Callable[..., LocalServer]]:
    """Returns a server in this process, on a tiny random model which never ends a text by itself.

    After the test no sequence may be left over in any of them.
    """
    with ExitStack() as stack:
        servers: list[LocalServer] = []

        def start(send_buffer: int | None = None, **values: object) -> LocalServer:
            settings = create_settings(**({"model_name": str(tiny_model())} | values))
            server = stack.enter_context(serve_app(create_app(settings), send_buffer))
            server.engine._lifecycle.loaded.eos_token_ids.clear()
            servers.append(server)
            return server

        yield start
        for server in servers:
            assert_nothing_is_left(server)


@pytest.fixture(scope="module")
def shared_server(tiny_model) -> Iterator[LocalServer]:
    """Such a server for tests that leave it as it was."""
    with serve_app(create_app(create_settings(model_name=str(tiny_model())))) as server:
        server.engine._lifecycle.loaded.eos_token_ids.clear()
        yield server
        assert_nothing_is_left(server)


def assert_nothing_is_left(server: LocalServer) -> None:
    """Neither the engine nor the delivery nor the figures know of a sequence any more."""
    for gate in server.gates:
        gate.open()
    wait_until(lambda: server.engine.num_live == 0)
    wait_until(lambda: not server.engine._dispatcher._live)
    states = ("live", "running", "waiting")
    wait_until(lambda: not any(server.sample(f"inference_sequences_{one}") for one in states))


def assert_started_are_accounted_for(samples: dict[tuple[str, ...], float]) -> None:
    """Each sequence that was taken in lives, or has come to one end."""

    def total(name: str) -> float:
        return sum(value for key, value in samples.items() if key[0] == name)

    ends = ("finished_total", "aborted_total", "failed_total", "live")
    accounted = sum(total(f"inference_sequences_{end}") for end in ends)
    assert total("inference_sequences_started_total") == accounted


@pytest.fixture(scope="session")
def client() -> Iterator[TestClient]:
    """A client of the app on the bundled model; after all tests no sequence may be left over."""
    with TestClient(create_app(create_settings())) as client:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client
        wait_until(lambda: client.app.state.service.engine.num_live == 0)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server on the bundled model, for tests that leave it as it was."""
    with serve(tmp_path_factory.mktemp("server")) as server:
        server.wait_until("/health/ready")
        yield server


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Returns when the condition holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
