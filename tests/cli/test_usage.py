"""`usage` sums the log that a server writes."""

import json

from tests.conftest import wait_until


def line(time: str, key: str, name: str, prompt: int, generated: int) -> str:
    entry = {"time": f"{time}T10:00:00+00:00", "request_id": "r", "key": key, "name": name}
    counts = {"sequences": 1, "prompt_tokens": prompt, "generated_tokens": generated}
    return json.dumps(entry | {"endpoint": "/generate"} | counts) + "\n"


LINES = [
    line("2026-01-02", "k1", "[red]team", 1, 2),
    line("2026-01-01", "k1", "[red]team", 10, 20),
    line("2026-01-01", "k1", "[red]team", 1000, 2000),
    line("2026-01-01", "", "", 5, 6),
    "\n",
    line("2026-01-01", "k1", "team", 1, 1)[:40] + "\n",
]


def test_a_servers_log_is_summed(run, start_server, tmp_path):
    log = tmp_path / "usage.jsonl"
    server = start_server(usage_log=log)
    for _ in range(2):
        server.post({"prompt": "a b", "max_length": 3, "num_return_sequences": 2})
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) == 2)
    (one,) = json.loads(run("usage", log, "--json").out)
    expected = json.loads(log.read_text().splitlines()[0])
    assert (one["requests"], one["sequences"]) == (2, 4)
    assert one["key"] == expected["key"]
    for count in ("prompt_tokens", "generated_tokens"):
        assert one[count] == 2 * expected[count] > 0


def test_days_and_keys_have_rows_of_their_own(run, tmp_path):
    log = tmp_path / "usage.jsonl"
    log.write_text("".join(LINES))
    done = run("usage", log, "--json")
    rows = [(one["day"], one["key"], one["generated_tokens"]) for one in json.loads(done.out)]
    assert rows == [("2026-01-01", "", 6), ("2026-01-01", "k1", 2020), ("2026-01-02", "k1", 2)]
    assert done.err == "lines that are cut or foreign, and left out: 1\n"


def test_the_table_ends_with_the_sums(run):
    done = run("usage", "-", stdin="".join(LINES))
    assert done.status == 0
    assert "2,028" in done.out.splitlines()[-2]
    assert "[red]team" in done.out, "names are no markup"


def test_a_missing_file_is_one_sentence(run, tmp_path):
    done = run("usage", tmp_path / "none")
    assert done.status == 2
    assert "No such file" in done.err
    assert len(done.err.splitlines()) == 1
