"""Requests that ask for what cannot be: refused by name, before the model works for them."""

import asyncio
import json
import re
import socket
import time

import httpx2

from benchmarks.attacks import chain_of_references, chain_of_rules
from tests.faults.asking import CHATS, DEADLINE, name_of, post, said, send, told
from tests.faults.conftest import assert_serves
from tests.faults.table import measured
from tests.support.servers import LocalServer
from tests.support.tiny_models import CONTEXT, END, VOCAB_SIZE

LAG_SECONDS = 0.05
TRIES = 5
"""One of them must be as smooth as is promised: a machine can be busy, a stall would be in each."""


def answers(server: LocalServer, cases: dict[str, dict], path: str = "/v1/completions") -> dict:
    """Sends each case and returns summaries of the answers."""
    return {case: told(post(server, path, **fields)) for case, fields in cases.items()}


def work(server: LocalServer) -> tuple[float, float]:
    """Returns counts of steps and sequences, which grow when the model works."""
    steps = server.sample("inference_step_tokens_count")
    return steps, server.sample("inference_sequences_started_total")


def refused(server: LocalServer, cases: dict[str, dict], path: str = "/v1/completions") -> dict:
    """Sends each case and asserts that all are refused before the model works."""
    before = work(server)
    found = answers(server, cases, path)
    assert work(server) == before
    assert {answer.split()[0].strip(":") for answer in found.values()} <= {"400", "404"}, found
    return found


def test_an_unknown_model(server):
    found = refused(server, {"completions": {"model": "gpt-4"}})
    found |= refused(server, {"chats": {"model": "gpt-4"}}, CHATS)
    found |= refused(server, {"embeddings": {"model": "gpt-4"}}, "/v1/embeddings")
    measured(26, found)


def test_invalid_conversations(server):
    cases = {
        "no messages": {"messages": []},
        "an unknown role": {"messages": [said("a", "judge")]},
        "`null` for text": {"messages": [said(None)]},
        "no content": {"messages": [{"role": "user"}]},
        "messages that are none": {"messages": "hello"},
    }
    for fields in cases.values():
        assert post(server, CHATS, **fields).json()["error"]["param"].startswith("messages")
    measured(27, refused(server, cases, CHATS))


def test_more_than_the_context(server):
    cases = {
        "a long text": {"prompt": "the " * CONTEXT},
        "many token ids": {"prompt": [5] * (CONTEXT + 1)},
        "prompt and max_tokens": {"prompt": [5] * 100, "max_tokens": CONTEXT - 99},
        "max_tokens": {"max_tokens": CONTEXT},
    }
    found = refused(server, cases)
    found |= refused(server, {"a long chat": {"messages": [said("the " * CONTEXT)]}}, CHATS)
    assert all("context_length_exceeded" in answer for answer in found.values())
    measured(28, found)


def test_an_invalid_max_tokens(server):
    lengths = {"-1": -1, "2^63": 2**63, '"10"': "10", "1.5": 1.5, "0": 0, "`true`": True}
    found = refused(server, {name: {"max_tokens": value} for name, value in lengths.items()})
    prompt_alone = post(server, max_tokens=0, echo=True)
    assert prompt_alone.json()["choices"][0]["text"] == "the"
    measured(29, found | {"0 with echo": told(prompt_alone)})


def test_too_many_answers(start):
    with start(rate_limit_tokens=1000, max_batch_size=4, max_queue_size=4) as server:
        cases = {
            "n = 10^9": {"n": 10**9},
            "n more than run and wait": {"n": 9},
            "more tokens than the key has": {"n": 8, "max_tokens": 126},
            "prompts times n": {"prompt": ["the"] * 128, "n": 128},
        }
        found = refused(server, cases)
    measured(30, found)


def test_sampling_out_of_bounds(server):
    wrong = {
        "temperature": [-0.1, 2.1, "1", [1], 1e300],
        "top_p": [0, -1, 1.1, "x"],
        "top_k": [-2, 1.5, "5", 10**30],
        "frequency_penalty": [3],
        "min_p": [1.5],
    }
    measured(
        31,
        refused(
            server,
            {
                f"{name} {value}": {name: value}
                for name, values in wrong.items()
                for value in values
            },
        ),
    )


def test_max_tokens_below_min_tokens(server):
    measured(32, refused(server, {"min_tokens": {"min_tokens": 5, "max_tokens": 4}}))


def test_stop_texts(server):
    cases = {
        "empty": {"stop": ""},
        "1,000": {"stop": ["a"] * 1000},
        "1 MB": {"stop": "a" * 10**6},
        "no texts": {"stop": [1]},
    }
    found = refused(server, cases)
    started = time.monotonic()
    for number in range(50):
        stops = [f"{number} {place}" for place in range(4)]
        assert post(server, stop=stops, max_tokens=5).status_code == 200
    assert time.monotonic() - started < DEADLINE
    measured(33, found | {"new ones in each of 50 requests": "200"})


def test_invalid_token_ids(server):
    cases = {
        "a negative prompt": {"prompt": [-1]},
        "behind the vocabulary": {"prompt": [VOCAB_SIZE]},
        "10^9": {"prompt": [5, 10**9]},
        "logit_bias": {"logit_bias": {str(VOCAB_SIZE): 1}},
        "stop_token_ids": {"stop_token_ids": [VOCAB_SIZE]},
        "logprobs 10^6": {"logprobs": 10**6},
    }
    measured(34, refused(server, cases))


def test_grammars_that_explode(server):
    refers = {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    }
    deep: dict = {}
    for _ in range(200):
        deep = {"properties": {"a": deep}}
    cases = {
        "`(a{1,999}){1,999}`": {"guided_regex": "(a{1,999}){1,999}"},
        "`a{100000}`": {"guided_regex": "a{100000}"},
        "$ref to itself": {"guided_json": {"$ref": "#"}},
        "$refs in a ring": {"guided_json": refers},
        "a schema of 200 levels": {"guided_json": deep},
        "a schema of 1 MB": {"guided_json": {"enum": ["a" * 10**6]}},
        "a chain of 3,000 $refs": {"guided_json": chain_of_references(3000)},
        "a chain of 3,000 rules": {"guided_grammar": chain_of_rules(3000)},
        "`a{12`": {"guided_regex": "a{12"},
        "a text that is not closed": {"guided_grammar": '["' + '\\"' * 100_000},
        "no type at all": {"guided_json": {"type": []}},
    }
    found = refused(server, cases)
    pattern = post(server, guided_regex="(a+)+b", max_tokens=100, logit_bias={"0": -100})
    text, reason = (pattern.json()["choices"][0][name] for name in ("text", "finish_reason"))
    assert re.fullmatch("a+b" if reason == "stop" else "a+", text)
    measured(35, found | {"`(a+)+b`": f"{told(pattern)}: it cannot explode here, and is kept to"})


def test_templates_of_the_client(server):
    cases = {
        "chat_template": {"chat_template": "{{ 1 }}"},
        "an unknown variable": {"chat_template_kwargs": {"a": 1}},
        "messages as a variable": {"chat_template_kwargs": {"messages": "a"}},
        "a list as a variable": {"chat_template_kwargs": {"a": [1]}},
    }
    measured(36, refused(server, cases, CHATS))


def test_text_that_spells_a_special_token(server):
    for spelled in ("<|im_end|>", END, "<|user|>", f"a{END}<|user|>b"):
        tokens = post(server, "/tokenize", messages=[said(spelled)]).json()
        ids = tokens["tokens"]
        assert [ids.count(special) for special in (0, 1)] == [0, 1]  # the template's own
        read = send(server, json.dumps({"tokens": ids}), "/detokenize").json()["prompt"]
        assert read.endswith(spelled)
        assert post(server, CHATS, messages=[said(spelled)]).status_code == 200
    measured(37, {"each": "200: it is text, and no such token"})


def test_a_megabyte_of_one_letter(server):
    cases = {"a": "a" * 10**6, "spaces": " " * 10**6}
    name = name_of(server)
    found = {}
    for case, prompt in cases.items():
        body = json.dumps({"model": name, "prompt": prompt})
        tries = [lag_while(server, body)]
        while min(lag for lag, _ in tries) > LAG_SECONDS and len(tries) < TRIES:
            tries.append(lag_while(server, body))
        assert min(lag for lag, _ in tries) <= LAG_SECONDS, tries
        found[case] = told(tries[0][1])
    measured(38, found)


def lag_while(server: LocalServer, body: str) -> tuple[float, httpx2.Response]:
    """Returns the longest time for which the event loop was held, and the answer."""
    lags = [0.0]

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - began - 0.001)

    watching = asyncio.run_coroutine_threadsafe(watch(), server.service.engine_watch.get_loop())
    response = send(server, body)
    watching.cancel()
    assert len(lags) > 1
    return max(lags), response


def test_images_by_address(server):
    with socket.create_server(("127.0.0.1", 0)) as inside:
        address = f"http://127.0.0.1:{inside.getsockname()[1]}/"
        urls = {
            "inside": address,
            "metadata": "http://169.254.169.254/",
            "file": "file:///etc/passwd",
        }
        parts = {
            name: [{"type": "image_url", "image_url": {"url": url}}] for name, url in urls.items()
        }
        cases = {name: {"messages": [said(part)]} for name, part in parts.items()}
        found = refused(server, cases, CHATS)
        inside.settimeout(0.2)
        try:
            inside.accept()
        except TimeoutError:
            found = {name: f"{answer}; nothing is fetched" for name, answer in found.items()}
    assert_serves(server)
    measured(39, found)
