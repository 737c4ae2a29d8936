"""`generate` continues arguments and pipes, as text and as JSON."""

import json
import subprocess
import sys

from tests.support.servers import ROOT

PROMPT = "The capital of France is"


def test_the_continuation_is_all_of_the_output(run, server):
    done = run("generate", PROMPT, "--url", server.url, "--temperature", 0)
    assert (done.status, done.out, done.err) == (0, " Paris.\n", "")


def test_a_prompt_may_come_over_a_pipe(server):
    done = subprocess.run(
        f"echo {PROMPT} | {sys.executable} -m src generate --temperature 0 --url {server.url}",
        shell=True,
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (" Paris.\n", "")


def test_json_has_counts_and_times(run, server, monkeypatch):
    monkeypatch.setenv("INFERENCE_URL", server.url)
    done = run("generate", PROMPT, "--temperature", 0, "--json")
    answer = json.loads(done.out)
    assert answer["text"] == " Paris."
    assert answer["finish_reason"] == "stop"
    assert (answer["prompt_tokens"], answer["completion_tokens"]) == (5, 3)
    assert answer["time_to_first_token"] > 0


def test_sampling_options_reach_the_server(run, server):
    options = ("--temperature", 1, "--top-p", 0.9, "--max-tokens", 5, "--json", "--url", server.url)
    first, again, other = (
        json.loads(run("generate", "Once upon a time", *options, "--seed", seed).out)
        for seed in (1, 1, 2)
    )
    assert first["text"] == again["text"] != other["text"]
    assert first["completion_tokens"] == 5
    assert first["finish_reason"] == "length"
