"""`python -m src batch`: answers a file without a server, and goes on where it stopped."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import wait_until
from tests.support.batches import as_text, chat_line, ids_of
from tests.support.servers import ROOT, environment


def start_batch(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "src", "batch", "-i", "in.jsonl", "-o", "out.jsonl", *options],
        cwd=folder,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_that_is_killed_goes_on_where_it_stopped(tmp_path):
    fields = {"max_tokens": 60, "ignore_eos": True}
    lines = [chat_line(number, **fields) for number in range(300)]
    lines[7]["body"]["max_tokens"] = 0
    lines[8]["url"] = "/generate"
    (tmp_path / "in.jsonl").write_bytes(as_text(lines) + b"\n{broken\n")
    output, errors = tmp_path / "out.jsonl", tmp_path / "out.errors.jsonl"
    process = start_batch(tmp_path)
    wait_until(lambda: output.exists() and output.stat().st_size > 20_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    num_before = output.read_bytes().count(b"\n")
    with output.open("ab") as file:
        file.write(b'{"custom_id": "299", "cut')
    done = start_batch(tmp_path)
    _, notes = done.communicate(timeout=100)
    assert done.returncode == 1, notes
    assert f"{298 - num_before} lines answered, {num_before} before, 3 failed" in notes
    assert sorted(ids_of(lines_of(output)), key=int) == [
        str(number) for number in range(300) if number not in (7, 8)
    ]
    failed = sorted(lines_of(errors), key=lambda line: line["line"])
    assert [line["line"] for line in failed] == [8, 9, 302]
    assert failed[0]["response"]["body"]["error"]["param"] == "max_tokens"
    assert [line["error"]["code"] for line in failed[1:]] == ["url_mismatch", "invalid_json_line"]


def test_an_interrupt_ends_it_at_once_and_keeps_the_answers(tmp_path):
    fields = {"max_tokens": 100, "ignore_eos": True}
    (tmp_path / "in.jsonl").write_bytes(as_text(chat_line(one, **fields) for one in range(2000)))
    output = tmp_path / "out.jsonl"
    process = start_batch(tmp_path)
    wait_until(lambda: output.exists() and output.stat().st_size > 20_000)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert 10 < len(lines_of(output)) < 2000


def test_files_that_cannot_be_used_are_named(run, tmp_path):
    missing, other = tmp_path / "none", tmp_path / "other"
    other.write_text("hello\n")
    refused = run("batch", "-i", missing, "-o", other)
    assert (refused.status, refused.err) == (1, f"Error: {missing}: there is no such file.\n")
    refused = run("batch", "-i", other, "-o", other)
    assert "must be three files" in refused.err
    refused = run("batch", "-i", other, "-o", missing / "out")
    assert "there is no such folder" in refused.err
