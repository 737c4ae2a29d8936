"""The audit makes all of its checks, and reports those that could not run."""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from deploy.audit import Outcome, Result, look_up, look_up_npm, report, run
from tests.support.servers import ROOT

CLEAN = {"name": "idna", "version": "3.10", "vulns": []}
HOLED = CLEAN | {"vulns": [{"id": "PYSEC-1", "fix_versions": ["3.11"], "aliases": []}]}
SKIPPED = {"name": "idna", "skip_reason": "Dependency not found on PyPI: idna (3.10)"}
UNREACHABLE = "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed"


def saying(text: str, complaint: str = "", status: int = 0) -> list[str]:
    """Creates a command with this output, like pip-audit's, without network."""
    code = "import sys; sys.stdout.write(sys.argv[1]); print(sys.argv[2], file=sys.stderr)"
    return [sys.executable, "-c", f"{code}; sys.exit({status})", text, complaint]


@pytest.mark.parametrize(
    ("command", "outcome", "detail"),
    [
        (saying(json.dumps({"dependencies": [CLEAN]})), Outcome.PASSED, "1 packages"),
        (saying(json.dumps({"dependencies": [SKIPPED, HOLED]}), "", 1), Outcome.FOUND, "idna 3.10"),
        (
            saying(json.dumps({"dependencies": [CLEAN, SKIPPED]})),
            Outcome.NOT_CHECKED,
            "1 of 2; Dep",
        ),
        (saying("", UNREACHABLE, 1), Outcome.NOT_CHECKED, UNREACHABLE),
        (saying('{"dependencies": []}'), Outcome.NOT_CHECKED, ""),
        (["/no/such/tool"], Outcome.NOT_CHECKED, "[Errno 2]"),
    ],
)
def test_a_package_without_an_answer_does_not_pass(command, outcome, detail):
    result = look_up("packages", command)
    assert result.outcome is outcome
    assert result.detail.startswith(detail)


@contextmanager
def registry(answer: Callable[[list[str]], dict[str, object]]) -> Iterator[str]:
    """Serves an npm registry with this answer to the audit's request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            said = json.dumps(answer(sorted(json.loads(body)))).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            """Silences the server's log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def npm_audit(url: str, cache: Path) -> Result:
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    command = ["npm", "audit", "--package-lock-only", "--json", "--prefix", "tests/clients"]
    return look_up_npm(
        "npm", [*command, f"--registry={url}", f"--cache={cache}", "--fetch-retries=0"]
    )


@pytest.mark.parametrize(
    ("severity", "outcome"), [("high", Outcome.FOUND), ("low", Outcome.PASSED)]
)
def test_severe_vulnerabilities_of_npm_packages_are_found(monkeypatch, tmp_path, severity, outcome):
    monkeypatch.chdir(ROOT)

    def answer(names: list[str]) -> dict[str, object]:
        hole = {"id": 1, "url": "https://example.com/1", "title": "a hole"}
        return {names[0]: [hole | {"severity": severity, "vulnerable_versions": "*"}]}

    with registry(answer) as url:
        assert npm_audit(url, tmp_path).outcome is outcome


def test_an_unreachable_registry_is_reported(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    result = npm_audit("http://127.0.0.1:9/", tmp_path)
    assert result.outcome is Outcome.NOT_CHECKED
    assert result.detail


def test_a_failing_command_counts_as_a_finding():
    assert run("code", [sys.executable, "-c", "pass"]).outcome is Outcome.PASSED
    assert run("code", [sys.executable, "-c", "raise SystemExit(1)"]).outcome is Outcome.FOUND


@pytest.mark.parametrize(
    ("outcomes", "status", "word"),
    [
        ([Outcome.PASSED], 0, "passed"),
        ([Outcome.NOT_CHECKED, Outcome.PASSED], 3, "incomplete"),
        ([Outcome.FOUND, Outcome.NOT_CHECKED], 1, "failed"),
    ],
)
def test_the_exit_status_differs_for_findings_and_for_missing_checks(
    capsys, outcomes, status, word
):
    assert report([Result("one", outcome) for outcome in outcomes]) == status
    assert word in capsys.readouterr().out


def test_all_checks_run_without_network(tmp_path):
    """Creates code and licences without network or tools."""
    packages = tmp_path / "runtime/lib/python3/site-packages"
    (packages / "one-1.0.dist-info").mkdir(parents=True)
    metadata = "Metadata-Version: 2.4\nName: one\nVersion: 1.0\nLicense-Expression: MIT\n\n"
    (packages / "one-1.0.dist-info/METADATA").write_text(metadata)
    folders = ["--runtime", packages.parents[2], "--output", tmp_path]
    absent = ["--tools", "/no/such/tool", "--npm", "/no/such/npm"]
    done = subprocess.run(
        [sys.executable, "-m", "deploy.audit", *map(str, [*folders, *absent])],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    table = done.stdout.partition("== The audit\n")[2].splitlines()
    assert [line[:12].strip() for line in table[:6]] == ["passed"] * 2 + ["NOT CHECKED"] * 4
    assert "one" in done.stdout
    assert (Path(tmp_path) / "torch.txt").read_text().startswith("torch==")
