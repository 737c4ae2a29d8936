"""Messages of a failed start, and starts with a model from a hub."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from src.errors import StartupError
from src.server.run import check_address
from tests.support.hub import run_hub
from tests.support.servers import ROOT, START_TIMEOUT, environment, free_port, serve

MODULE = ("-m", "src.main")
UVICORN = ("-m", "uvicorn", "src.main:app", "--port", "0")
BUNDLED = "MODEL_NAME=storyteller runs the bundled model"


def start(
    folder: Path, command: tuple[str, ...] = MODULE, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Runs the service from `folder` until it ends by itself."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(**({"port": 0} | settings)),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT,
        check=False,
    )


@pytest.fixture
def corrupt_model(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model("gpt2"), tmp_path / "corrupt"))
    (folder / "model.safetensors").write_bytes(b"cut off")
    return folder


def test_one_message_names_all_bad_settings(tmp_path):
    ended = start(tmp_path, port="abc", temperature=3, environment="staging", workers=0)
    assert ended.returncode == 1
    assert ended.stdout == ""
    heading, *problems = ended.stderr.splitlines()
    assert heading == "Some settings cannot be used:"
    named = dict(problem.strip().split(": ", 1) for problem in problems)
    assert "valid integer" in named.pop("PORT=abc")
    assert "less than or equal to 2" in named.pop("TEMPERATURE=3")
    assert "'development' or 'production'" in named.pop("ENVIRONMENT=staging")
    assert "greater than or equal to 1" in named.pop("WORKERS=0")
    assert named == {}


@pytest.mark.parametrize(
    ("command", "settings", "message"),
    [
        (MODULE, {"reload": "true", "workers": 2}, "RELOAD=true works with WORKERS=1 alone"),
        (UVICORN, {"top_p": 0}, "TOP_P=0: Input should be greater than 0"),
    ],
    ids=["settings that contradict each other", "under uvicorn"],
)
def test_a_bad_setting_prints_two_lines(tmp_path, command, settings, message):
    ended = start(tmp_path, command, **settings)
    assert ended.returncode == 1
    heading, problem = ended.stderr.splitlines()
    assert heading == "Some settings cannot be used:"
    assert problem.strip().startswith(message)


def test_a_missing_model_ends_the_start(tmp_path):
    ended = start(tmp_path, model_name="./nope")
    assert ended.returncode == 3
    (reason,) = [line for line in ended.stderr.splitlines() if "critical" in line]
    assert "cannot start: MODEL_NAME=./nope" in reason
    assert str(tmp_path / "nope") in reason
    assert BUNDLED in reason
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1] == reason  # the last line


def test_an_unavailable_default_model_is_replaced_by_the_bundled_one(tmp_path):
    with serve(tmp_path, model_name="", hf_hub_offline=1) as server:
        server.wait_until("/health/ready")
        (model,) = server.get("/v1/models").json()["data"]
        assert model["id"] == "storyteller"
        body = {"prompt": "The capital of France is", "max_length": 3, "temperature": 0}
        answer = server.post(body).json()
        assert (answer["model"], answer["prompt_tokens"]) == ("storyteller", 5)
        labels = {key[-1] for key in server.samples() if key[0].startswith("gen_ai_server_time_to")}
        assert "gpt2" not in labels
    (line,) = [line for line in server.log.splitlines() if "MODEL_NAME is not set" in line]
    assert "gpt2 is not available: serving storyteller" in line
    assert "Traceback" not in server.log


def test_an_unavailable_model_that_is_set_ends_the_start(tmp_path):
    ended = start(tmp_path, model_name="gpt2", hf_hub_offline=1)
    assert ended.returncode == 3
    assert "cannot start: MODEL_NAME=gpt2" in ended.stderr


def test_a_typo_in_the_env_file_is_reported(tmp_path):
    (tmp_path / ".env").write_text("TEMPERATUR=0.5\nmodelname=x\nPOSTGRES_PASSWORD=y\nTOP_P=1\n")
    ended = start(tmp_path, model_name="./nope")
    warnings = [line for line in ended.stderr.splitlines() if "warning" in line]
    assert len(warnings) == 2
    assert ".env: TEMPERATUR is no setting; did you mean TEMPERATURE?" in warnings[0]
    assert ".env: modelname is no setting; did you mean MODEL_NAME?" in warnings[1]


@pytest.mark.parametrize(
    ("text", "served"),
    [
        (None, "storyteller"),
        ("TEMPERATURE=0.5\n", "storyteller"),
        ("# MODEL_NAME=gpt2\nMODEL_NAME=\n", "storyteller"),
        ("MODEL_NAME=gpt2\n", None),
        ("  export model_name = gpt2\n", None),
    ],
)
def test_make_serve_serves_the_bundled_model_unless_the_env_file_names_one(tmp_path, text, served):
    """Runs the Makefile's own recipe with a fake python that prints MODEL_NAME."""
    if text is not None:
        (tmp_path / ".env").write_text(text)
    for name in ("pyproject.toml", "requirements.lock"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintenv MODEL_NAME\n")
    python.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    variables = {name: value for name, value in os.environ.items() if name != "MODEL_NAME"}
    done = subprocess.run(
        ["make", "--no-print-directory", "-f", ROOT / "Makefile", "serve", f"UV={python}"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip() or None) == served, done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_in_use_ends_the_start_before_the_model_loads(tmp_path, workers):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = start(tmp_path, port=port, workers=workers)
    assert ended.returncode == 1
    reason = ended.stderr.splitlines()[-1]
    assert f"cannot start: port {port} of 127.0.0.1 is in use" in reason
    assert "set PORT" in reason
    assert "loading the model" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_address_of_another_machine_ends_the_start(tmp_path):
    ended = start(tmp_path, host="192.0.2.1", port=8000)
    assert ended.returncode == 1
    assert "cannot start: HOST=192.0.2.1 with PORT=8000 cannot be" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_checking_a_free_port_leaves_it_free(host):
    port = free_port()
    check_address(host, port)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StartupError, match="PORT"):
        check_address(host, port)


def test_a_default_length_of_the_whole_context_ends_the_start(tmp_path, tiny_model):
    ended = start(tmp_path, model_name=tiny_model("gpt2"), max_length=128)
    assert ended.returncode == 3
    assert "MAX_LENGTH=128 new tokens leave no room" in ended.stderr.splitlines()[-1]


def test_a_corrupt_model_ends_uvicorn_and_its_json_log(tmp_path, corrupt_model):
    ended = start(tmp_path, UVICORN, model_name=corrupt_model, environment="production")
    assert ended.returncode == 3
    entries = [json.loads(line) for line in ended.stderr.splitlines()]
    assert entries[-1]["level"] == "critical"
    assert f"The weights in {corrupt_model} cannot be loaded" in entries[-1]["event"]
    assert BUNDLED in entries[-1]["event"]
    assert "Traceback" not in ended.stderr


def test_workers_without_a_model_are_not_restarted_forever(tmp_path):
    with run_hub() as hub:
        url = hub.url  # nothing listens there any more
    ended = start(tmp_path, model_name="org/model", workers=2, hf_hub_offline=0, hf_endpoint=url)
    assert ended.returncode == 3
    assert "cannot start: MODEL_NAME=org/model" in ended.stderr
    assert "MODEL_CACHE_DIR (models) holds no complete copy" in ended.stderr
    assert url in ended.stderr
    assert BUNDLED in ended.stderr
    assert ended.stderr.count("loading the model") == 2
    assert "Traceback" not in ended.stderr


def test_a_model_from_the_hub_is_served_from_the_cache_when_the_hub_is_gone(tmp_path, tiny_model):
    with run_hub() as hub:
        hub.add("org/model", tiny_model("llama"))
        settings = {"model_name": "org/model", "hf_hub_offline": 0, "hf_endpoint": hub.url}
        settings |= {"model_cache_dir": tmp_path / "cache"}
        assert served_text(tmp_path, settings).startswith("the cat")
        assert "model.safetensors" in hub.downloads()
    assert served_text(tmp_path, settings).startswith("the cat")


def served_text(folder: Path, settings: dict[str, object]) -> str:
    with serve(folder, **settings) as server:
        server.wait_until("/health/ready")
        body = {"prompt": "the cat", "max_length": 4}
        answer = httpx2.post(f"{server.url}/generate", json=body, timeout=30).json()
    assert answer["model"] == "model"
    text: str = answer["generated"][0]["text"]
    return text
