"""The service keeps what its /openapi.json says, whatever requests come, valid and invalid.

It asks for a key where requests are made at random.

For a longer run, start `make serve` with a high RATE_LIMIT_REQUESTS, and then
`python -m schemathesis.cli --config-file tests/support/openapi_checks.toml run URL/openapi.json`
with the option `-n 500`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV32SpecValidator

from tests.conftest import wait_until
from tests.support.keys import bearer, create_key
from tests.support.openapi_hooks import KEY
from tests.support.servers import ROOT, serve

# The phase of coverage tries every keyword of the document, so its time grows with that: it is cut.
RUNS = {
    "examples,fuzzing,stateful": ["--phases", "examples,fuzzing,stateful"],
    "coverage": ["--phases", "coverage", "--max-time", "30"],
}


@pytest.mark.parametrize("run", RUNS)
def test_answers_are_what_the_document_says(
    tmp_path: Path, tiny_model: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, run: str
):
    # Other tests cover what is asked here; to trace it all would take as long again.
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)
    settings = {"model_name": tiny_model(), "max_length": 8, "chat_template": "{{ messages }}"}
    settings |= {"auth": "api_key", "api_keys_file": tmp_path / "keys.json"}
    settings |= {"rate_limit_address_requests": 10**9, "unknown_fields": "refuse"}
    scopes = "generate,embeddings,metrics,admin"
    key = create_key(settings["api_keys_file"], "one", "--scopes", scopes)
    monkeypatch.setenv(KEY, key)
    headers = bearer(key)
    with serve(tmp_path, **settings) as server:
        server.headers = headers
        server.wait_until("/health/ready")
        summary = run_schemathesis(server.url, RUNS[run], headers)
        assert int(re.search(r"(\d+) generated", summary)[1]) > 50, summary
        wait_until(lambda: server.sample("inference_sequences_live") == 0)


def test_the_document_is_valid_for_the_version_that_it_names(shared_server):
    document = shared_server.get("/openapi.json").json()
    assert document["openapi"] == "3.2.0"
    assert list(OpenAPIV32SpecValidator(document).iter_errors()) == []
    streamed = document["paths"]["/generate"]["post"]["responses"]["200"]["content"]
    assert "itemSchema" in streamed["text/event-stream"]


def run_schemathesis(url: str, options: list[str], headers: dict[str, str]) -> str:
    """Returns what it says at its end."""
    command = [sys.executable, "-m", "schemathesis.cli"]
    document = ["--config-file", "tests/support/openapi_checks.toml", "run", url + "/openapi.json"]
    # Most texts are no part of a path, and that it threw many away is no fault of the service.
    patience = ["--suppress-health-check", "filter_too_much"]
    for name, value in headers.items():
        document += ["--header", f"{name}: {value}"]
    done = subprocess.run(
        [*command, *document, *options, *patience, "--seed", "1"],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.partition(" SUMMARY ")[2]
