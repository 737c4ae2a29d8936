"""Exit statuses, failures as sentences, and a help page that loads no model code."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.keys import bearer, create_key
from tests.support.servers import ROOT, free_port

HEAVY = {"torch", "transformers", "tokenizers", "fastapi", "uvicorn", "pydantic"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "src", *arguments]


def test_the_help_lists_the_commands_and_loads_no_model_code():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['src', '--help']\n"
        "try:\n    runpy.run_module('src', run_name='__main__')\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    for name in ("serve", "chat", "generate", "bench", "models", "keys", "usage"):
        assert f" {name} " in done.stdout
    loaded = set(done.stderr.split())
    assert "src.cli.app" in loaded
    assert not HEAVY & loaded


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate", "a", "--temperature", "hot"], "'--temperature'"),
        (["generate", "a", "--max-tokens", "0"], "'--max-tokens'"),
        (["bench", "--requests", "x"], "'--requests'"),
        (["chatt"], "No such command 'chatt'"),
        (["usage"], "Missing argument"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_status_2(run, arguments, sentence):
    done = run(*arguments)
    assert done.status == 2
    assert done.out == ""
    assert sentence in done.err
    assert "--help` explains it" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["generate", "chat", "bench", "models"])
def test_a_server_that_is_not_there_is_one_sentence_and_status_1(run, name):
    url = f"http://127.0.0.1:{free_port()}"
    arguments = {"generate": ["a"], "models": ["list"]}.get(name, [])
    done = run(name, *arguments, "--url", url, stdin="hello\n")
    assert done.status == 1
    assert done.err == (
        f"Error: No server answers at {url}. `python -m src serve` starts one on this machine.\n"
    )


def test_no_url_is_one_sentence(run):
    done = run("generate", "a", "--url", "ftp://x")
    assert done.status == 1
    assert done.err.startswith("Error: ftp://x is no URL of a server")


def test_an_unknown_model_is_named(run, server):
    done = run("generate", "a", "--url", server.url, "--model", "nope")
    assert done.status == 1
    assert "nope" in done.err
    assert "`models list` shows the names" in done.err


def test_another_server_is_recognized_by_its_routes(run, server):
    done = run("generate", "a", "--url", server.url + "/health")
    assert done.status == 1
    assert "There is no /health/v1/models at 127.0.0.1" in done.err


def test_keys_and_rate_limits_are_explained(run, start_server, tmp_path, monkeypatch):
    file = tmp_path / "keys.json"
    key = create_key(file, "team", "--requests", "1")
    admin = create_key(file, "admin", "--scopes", "admin")
    server = start_server(auth="api_key", api_keys_file=file)
    server.headers = bearer(admin)
    arguments = ("generate", "a", "--url", server.url, "--max-tokens", "1")
    assert "needs an API key: set API_KEY" in run(*arguments).err
    assert "does not accept this API key" in run(*arguments, "--api-key", "llmk_no").err
    monkeypatch.setenv("API_KEY", key)
    assert run(*arguments).status == 0
    limited = run(*arguments)
    assert limited.status == 1
    assert "accepts no more requests at the moment" in limited.err
    assert "Try again in " in limited.err


def test_a_full_server_is_explained(run, start_server):
    server = start_server(max_batch_size=1, max_queue_size=0)
    gate = server.hold()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, {"prompt": "a", "max_length": 2})
        gate.wait()
        done = run("generate", "a", "--url", server.url, "--max-tokens", 2)
        gate.open()
        assert running.result().status_code == 200
    assert done.status == 1
    assert done.err.startswith("Error: The server cannot answer at the moment: ")
    assert "Try again in " in done.err


def test_a_failure_within_a_stream_is_explained(run, start_server):
    server = start_server()
    num_steps = 0

    def fail_later(real, *args, **kwargs):
        nonlocal num_steps
        num_steps += 1
        if num_steps > 15:  # the first tokens may be without text
            raise RuntimeError("broken")
        return real(*args, **kwargs)

    server.break_model(fail_later)
    done = run("generate", "a", "--url", server.url, "--max-tokens", 20)
    assert done.status == 1
    assert done.out
    assert "The server failed during the answer: The model failed on this request" in done.err


def test_ctrl_c_ends_with_130_and_frees_the_server(start_server):
    server = start_server()
    gate = server.hold()
    process = subprocess.Popen(
        command("generate", "a", "--url", server.url, "--max-tokens", "9"),
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    with process:
        gate.wait()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == ""


def test_a_closed_pipe_ends_quietly(server):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command("generate", "Once upon a time", "--url", server.url),
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


def test_serve_sets_the_settings_of_its_options(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command("serve", "--workers", "0", "--model", "storyteller", "--quantization", "none"),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "WORKERS=0: " in done.stderr
    assert "Traceback" not in done.stderr


def test_urls_may_end_with_the_version(run, server):
    assert run("models", "list", "--url", server.url + "/v1/").status == 0
    assert run("models", "list", "--url", server.url.removeprefix("http://")).status == 0
