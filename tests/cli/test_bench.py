"""`bench` measures one server or compares two."""

import json

from src.cli.client import EventParser
from src.cli.load import create_prompts
from src.cli.measurement import quantile

LOAD = ("--requests", 6, "--concurrency", 3, "--max-tokens", 8, "--prompt-length", 12)


def test_json_has_the_figures_of_each_server(run, server):
    done = run("bench", "--url", server.url, "--ignore-eos", *LOAD, "--json")
    (figures,) = json.loads(done.out)
    assert done.status == 0
    assert (figures["requests"], figures["failed"]) == (6, 0)
    assert figures["model"] == "storyteller"
    assert figures["completion_tokens"] == 8
    assert figures["prompt_tokens"] > 12
    for name in ("ttft", "itl", "latency"):
        times = figures[name]
        assert 0 < times["p50"] <= times["p95"] <= times["p99"]
    assert figures["ttft"]["p50"] < figures["latency"]["p50"]
    tokens = figures["tokens_per_second"] * figures["seconds"]
    assert abs(tokens - 48) < 1


def test_two_servers_are_compared_in_one_table(run, server):
    done = run("bench", "--url", server.url, "--url", server.url, "--endpoint=completions", *LOAD)
    assert done.status == 0
    assert "second / first" in done.out
    for row in ("tokens/s", "time to first token, p95 (ms)", "between tokens, p99 (ms)"):
        assert row in done.out
    assert done.err == "", "a progress bar is for terminals"


def test_a_server_that_refuses_is_one_sentence(run, server):
    done = run("bench", "--url", server.url, "--model", "nope", *LOAD)
    assert (done.status, done.out) == (1, "")
    assert "nope" in done.err


def test_refused_requests_are_counted(run, start_server):
    server = start_server(rate_limit_requests=4)
    done = run("bench", "--url", server.url, "--endpoint=completions", *LOAD, "--json")
    (figures,) = json.loads(done.out)
    assert done.status == 1
    assert (figures["requests"], figures["failed"]) == (3, 3)
    assert "3 requests to" in done.err
    assert "accepts no more requests" in done.err


def test_prompts_are_repeatable_and_share_no_beginning():
    prompts = create_prompts(20, 64, seed=1)
    assert prompts == create_prompts(20, 64, seed=1) != create_prompts(20, 64, seed=2)
    assert {len(prompt.split()) for prompt in prompts} == {64}
    assert len({" ".join(prompt.split()[:5]) for prompt in prompts}) == 20


def test_quantiles_are_interpolated():
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([0, 10], 0.95) == 9.5
    assert quantile([7], 0.99) == 7


def test_events_may_be_cut_anywhere_and_hold_line_separators():
    text = "a\u2028b"
    data = f'data: {{"x": "{text}"}}\r\n\r\n: ping\n\ndata: {{"x": "c"}}\n\ndata: [DONE]\n\n'
    for size in (1, 7, 1000):
        parser, encoded = EventParser(), data.encode()
        pieces = [encoded[start : start + size] for start in range(0, len(encoded), size)]
        events = [event for piece in pieces for event in parser.feed(piece)]
        assert events == [{"x": text}, {"x": "c"}]
