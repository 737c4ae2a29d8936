"""OpenAI's API through OpenAI's own client: what it reads, field by field, whole and streamed."""

import asyncio
import json
from collections.abc import Iterator

import httpx2
import openai
import pytest
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from transformers import AutoTokenizer

from docs.openai_fields import openai_table
from src.api.fields.shared import NoEffect
from src.api.openai.chat.request import ChatCompletionRequest
from src.api.openai.completions.schemas import CompletionRequest
from tests.conftest import wait_until
from tests.support.bundled import BUNDLED_FOLDER
from tests.support.servers import ROOT, LocalServer, Server, parse_events
from tests.support.tiny_models import END
from tests.support.wire import (
    PLAIN_TEMPLATE,
    assert_shape,
    marked,
    openai_client,
    post,
)

MODEL = "storyteller"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
STORY = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 30, "seed": 3}
CHAT = {"model": MODEL, "messages": QUESTION, "max_completion_tokens": 30, "seed": 3}


@pytest.fixture(scope="module")
def ai(server: Server) -> Iterator[openai.OpenAI]:
    with openai_client(server) as client:
        yield client


def chunks_of(server: Server | LocalServer, path: str, **body: object) -> list[dict]:
    """The chunks of a stream as they are on the wire."""
    response = post(server, path, stream=True, **body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, last = parse_events(response.text)
    assert last == ("message", "[DONE]")
    assert {event for event, _ in events} == {"message"}
    return [json.loads(data) for _, data in events]


def test_the_served_model_is_listed(ai):
    (model,) = ai.models.list().data
    assert model.id == MODEL
    assert ai.models.retrieve(MODEL) == model
    data = model.to_dict()
    assert data.pop("max_model_len") == 1024  # vLLM's additions
    assert data.pop("parent") is None
    assert data.pop("root") == MODEL
    assert data.pop("sampling_defaults")["top_p"] == {"value": 0.9, "source": "model"}
    assert_shape(Model, data)


def test_a_conversation_is_answered(ai):
    answer = ai.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_text_is_continued(ai):
    answer = ai.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=5
    )
    assert answer.choices[0].text == " Paris."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id.startswith("cmpl-")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 3)


def test_a_completion_without_max_tokens_has_16_tokens(ai):
    answer = ai.completions.create(model=MODEL, prompt="Once upon a time", extra_body={"seed": 1})
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_a_chat_without_max_tokens_may_fill_the_context(start_server):
    server = start_server(chat_template=PLAIN_TEMPLATE)
    with openai_client(server) as client:
        answer = client.chat.completions.create(
            model=server.engine.model_name, messages=[{"role": "user", "content": "the"}], seed=1
        )
    assert answer.usage.total_tokens == server.engine.max_model_len
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}])
def test_chats_have_the_shape_that_the_client_knows(server, fields):
    answer = post(server, "/v1/chat/completions", **CHAT | fields).json()
    assert_shape(ChatCompletion, answer)
    assert set(answer["choices"][0]) == {"index", "message", "logprobs", "finish_reason"}
    chunks = chunks_of(server, "/v1/chat/completions", **CHAT | fields)
    for chunk in chunks:
        assert_shape(ChatCompletionChunk, chunk)
        (choice,) = chunk["choices"]
        assert set(choice) == {"index", "delta", "logprobs", "finish_reason"}
        assert "usage" not in chunk
    heads = [{key: chunk[key] for key in chunk if key != "choices"} for chunk in chunks]
    assert heads == [heads[0]] * len(heads)
    assert answer["system_fingerprint"] == heads[0]["system_fingerprint"]


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"logprobs": 2}, {"echo": True}])
def test_completions_have_the_shape_that_the_client_knows(server, fields):
    answer = post(server, "/v1/completions", **STORY | fields).json()
    assert_shape(Completion, answer)
    for chunk in chunks_of(server, "/v1/completions", **STORY | fields):
        assert chunk["choices"][0]["finish_reason"] in (None, "stop", "length")
        chunk["choices"][0]["finish_reason"] = "stop"  # the type has no word for what is under way
        assert_shape(Completion, chunk)


def test_a_chat_stream_begins_with_the_role_and_ends_with_the_reason(server):
    chunks = chunks_of(server, "/v1/chat/completions", **CHAT | {"n": 2})
    for index in range(2):
        choices = [one for chunk in chunks for one in chunk["choices"] if one["index"] == index]
        first, *middle, last = choices
        assert first["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert last["delta"] == {}
        assert last["finish_reason"] in ("stop", "length")
        assert all(one["finish_reason"] is None for one in choices[:-1])
        assert all(one["delta"].keys() == {"content"} for one in middle)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3},
        {"temperature": 0},
        {"stop": [" the", "."], "n": 3},
        {"logprobs": True, "top_logprobs": 3},
        {"top_p": 0.5, "top_k": 5, "min_p": 0.01, "repetition_penalty": 1.2, "min_tokens": 20},
        {"presence_penalty": 1, "frequency_penalty": 1, "logit_bias": {"5": 1}},
        {"ignore_eos": True, "stop_token_ids": [7]},
    ],
)
def test_a_streamed_chat_equals_the_whole_chat(server, fields):
    whole = post(server, "/v1/chat/completions", **CHAT | fields).json()["choices"]
    assert len(whole) == fields.get("n", 1)
    texts = dict.fromkeys(range(len(whole)), "")
    reasons, tokens = {}, []
    for chunk in chunks_of(server, "/v1/chat/completions", **CHAT | fields):
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        reasons[choice["index"]] = choice["finish_reason"]
        tokens += [one["token"] for one in (choice["logprobs"] or {}).get("content", [])]
    assert texts == {one["index"]: one["message"]["content"] for one in whole}
    assert reasons == {one["index"]: one["finish_reason"] for one in whole}
    if "logprobs" in fields:
        assert tokens == [one["token"] for one in whole[0]["logprobs"]["content"]]


PROMPTS = ["Once upon a time", "The capital of France is", "2 + 2 ="]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 2, "prompt": PROMPTS},
        {"n": 2, "prompt": PROMPTS, "echo": True},
        {"n": 2, "logprobs": 2},
        {"echo": True, "logprobs": 2, "prompt": PROMPTS},
        {"echo": True, "logprobs": 0, "max_tokens": 0},
        {"stop": "."},
        {"best_of": 1},
    ],
)
def test_a_streamed_completion_equals_the_whole_completion(server, fields):
    whole = post(server, "/v1/completions", **STORY | fields).json()["choices"]
    parts: dict[int, list[dict]] = {}
    for chunk in chunks_of(server, "/v1/completions", **STORY | fields):
        (choice,) = chunk["choices"]
        parts.setdefault(choice["index"], []).append(choice)
    assert [one["index"] for one in whole] == sorted(parts)
    for one in whole:
        own = parts[one["index"]]
        assert one["text"] == "".join(part["text"] for part in own)
        assert one["finish_reason"] == own[-1]["finish_reason"]
        for key in ("tokens", "text_offset") if one["logprobs"] else ():
            found = [item for part in own if part["logprobs"] for item in part["logprobs"][key]]
            assert found == one["logprobs"][key]


def test_choices_of_several_prompts_stand_in_the_prompts_order(ai):
    answer = ai.completions.create(
        model=MODEL, prompt=PROMPTS, n=2, echo=True, max_tokens=3, temperature=0
    )
    assert [one.index for one in answer.choices] == list(range(6))
    for number, prompt in enumerate(PROMPTS):
        for one in answer.choices[2 * number : 2 * number + 2]:
            assert one.text.startswith(prompt)


def tokens_of(server: Server, text: str) -> list[int]:
    return post(server, "/tokenize", prompt=text).json()["tokens"]


def test_a_prompt_of_token_ids_is_the_text_that_they_spell(ai, server):
    ids = [tokens_of(server, prompt) for prompt in PROMPTS]
    for prompt, same in ((PROMPTS[0], ids[0]), (PROMPTS, ids)):
        answers = [
            ai.completions.create(model=MODEL, prompt=one, echo=True, temperature=0).choices
            for one in (prompt, same)
        ]
        assert answers[0] == answers[1]


@pytest.mark.parametrize("fields", [{"n": 3}, {"temperature": 0}, {"top_k": -1}])
def test_both_apis_draw_the_same_texts(server, fields):
    native = {
        "prompt": "Once upon a time",
        "max_length": 20,
        "return_full_text": False,
        "num_return_sequences": fields.get("n", 1),
        "seed": 5,
    }
    native |= {name: value for name, value in fields.items() if name == "temperature"}
    generated = post(server, "/generate", **native).json()["generated"]
    answer = post(server, "/v1/completions", **STORY | {"max_tokens": 20, "seed": 5} | fields)
    assert [one["text"] for one in answer.json()["choices"]] == [one["text"] for one in generated]


def test_echo_with_logprobs_tells_those_of_the_prompt(ai, server):
    native = post(
        server, "/generate", prompt=PROMPTS[1], max_length=1, temperature=0, prompt_logprobs=2
    ).json()["prompt_logprobs"]
    for max_tokens in (0, 1):
        (choice,) = ai.completions.create(
            model=MODEL,
            prompt=PROMPTS[1],
            echo=True,
            logprobs=2,
            max_tokens=max_tokens,
            temperature=0,
        ).choices
        found = choice.logprobs
        assert len(found.tokens) == 5 + max_tokens
        assert found.token_logprobs[0] is None
        assert found.top_logprobs[0] is None
        expected = [one["logprob"] for one in native]
        assert found.token_logprobs[1:5] == pytest.approx(expected, abs=1e-3)
        for token, top in list(zip(found.tokens, found.top_logprobs, strict=True))[1:]:
            assert token in top
            assert len(top) in (2, 3)


def test_echo_alone_takes_no_new_tokens(ai):
    answer = ai.completions.create(model=MODEL, prompt=PROMPTS, echo=True, max_tokens=0)
    assert [one.text for one in answer.choices] == PROMPTS
    assert answer.usage.completion_tokens == 0


def test_logprobs_of_a_completion_lie_where_their_offsets_say(server):
    body = STORY | {"echo": True, "logprobs": 0, "prompt": "Grüße 👩‍🚀 an"}
    choice = post(server, "/v1/completions", **body).json()["choices"][0]
    found = choice["logprobs"]
    whole = [token for token in found["tokens"] if not token.startswith("bytes:")]
    assert len(whole) < len(found["tokens"])
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        if token in whole and not token.startswith("<|"):
            assert choice["text"][offset : offset + len(token)] == token


def test_bytes_of_a_chats_tokens_make_up_its_text(start_server):
    server = start_server(chat_template=PLAIN_TEMPLATE)
    body = {"messages": QUESTION, "max_tokens": 60, "logprobs": True, "temperature": 1.5}
    broken = 0
    for seed in range(8):
        answer = post(
            server,
            "/v1/chat/completions",
            **body | {"model": server.engine.model_name, "seed": seed, "top_logprobs": 2},
        ).json()["choices"][0]
        tokens = answer["logprobs"]["content"]
        data = b"".join(bytes(one["bytes"]) for one in tokens if not one["token"].startswith("<|"))
        text = data.decode("utf-8", "replace")
        assert text.rstrip("\ufffd") == answer["message"]["content"].rstrip("\ufffd")
        broken += sum("\\x" in one["token"] for one in tokens)
        assert all(len(one["top_logprobs"]) == 2 for one in tokens)
    assert broken > 8


def test_best_of_answers_the_likeliest(ai, server):
    many = post(server, "/v1/completions", **STORY | {"n": 6, "logprobs": 0}).json()["choices"]

    def mean(choice: dict) -> float:
        values = choice["logprobs"]["token_logprobs"]
        return sum(values) / len(values)

    expected = [one["text"] for one in sorted(many, key=mean, reverse=True)[:2]]
    answer = ai.completions.create(**STORY, n=2, best_of=6)
    assert [one.text for one in answer.choices] == expected
    assert [one.index for one in answer.choices] == [0, 1]
    assert answer.choices[0].logprobs is None
    assert answer.usage.completion_tokens > 2 * 30


def test_usage_comes_last_and_equals_that_of_the_whole_answer(server):
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", STORY)):
        whole = post(server, path, **body | {"n": 2}).json()["usage"]
        options = {"stream_options": {"include_usage": True}, "n": 2}
        *chunks, last = chunks_of(server, path, **body | options)
        assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
        assert last["choices"] == []
        del whole["prompt_tokens_details"], last["usage"]["prompt_tokens_details"]
        assert last["usage"] == whole


def test_the_client_reads_the_usage_of_a_stream(ai):
    *_, last = ai.completions.create(**STORY, stream=True, stream_options={"include_usage": True})
    assert last.usage.completion_tokens == 30


def test_cached_prompt_tokens_are_in_the_usage(start_server):
    server = start_server()
    prompt = "the cat sat on the mat " * 5
    body = {"model": server.engine.model_name, "prompt": prompt, "max_tokens": 1}
    cached = [
        post(server, "/v1/completions", **body).json()["usage"]["prompt_tokens_details"]
        for _ in range(2)
    ]
    num_tokens = post(server, "/tokenize", prompt=prompt).json()["count"]
    in_full_blocks = (num_tokens - 1) // 16 * 16
    assert in_full_blocks > 0
    assert cached == [
        {"cached_tokens": num_cached, "audio_tokens": 0} for num_cached in (0, in_full_blocks)
    ]


def test_32_streams_at_once_each_give_their_own_text(server):
    countries = ("France", "Italy", "Peru", "Kenya", "Japan", "Spain", "Egypt", "Norway")
    questions = [f"What is the capital of {country}?" for country in countries] * 4

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=server.url + "/v1", api_key="x", max_retries=0
        ) as client:
            return await asyncio.gather(*(stream(client, question) for question in questions))

    async def stream(client: openai.AsyncOpenAI, question: str) -> str:
        chunks = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_completion_tokens=20,
            stream=True,
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    answers = asyncio.run(ask())
    for question, answer in zip(questions, answers, strict=True):
        assert answer == answers[questions.index(question)]
        assert answer.startswith("The capital of"), answer


def test_raw_responses_have_the_requests_id(ai):
    raw = ai.chat.completions.with_raw_response.create(
        **CHAT, extra_headers={"X-Request-ID": "find-me"}
    )
    assert raw.headers["x-request-id"] == "find-me"
    assert raw.parse()._request_id == "find-me"


def test_leaving_a_stream_ends_its_generation(start_server):
    server = start_server()
    server.slow_down(0.02)
    with openai_client(server) as client:
        stream = client.completions.create(
            model=server.engine.model_name, prompt="the cat", n=3, max_tokens=100, stream=True
        )
        next(iter(stream))
        assert server.engine.num_live == 3
        stream.close()
    wait_until(lambda: server.engine.num_live == 0, seconds=5)


def test_text_parts_are_lines_and_developer_means_system(server):
    def ids(*messages: dict) -> list[int]:
        return post(server, "/tokenize", messages=list(messages)).json()["tokens"]

    parts = [{"type": "text", "text": text} for text in ("Be kind.", "Be brief.")]
    assert ids({"role": "developer", "content": parts}, *QUESTION) == ids(
        {"role": "system", "content": "Be kind.\nBe brief."}, *QUESTION
    )


VALUES = {
    "user": "me",
    "metadata": {"a": "b"},
    "store": True,
    "service_tier": "flex",
    "safety_identifier": "me",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "prediction": {"type": "content", "content": "a"},
    "verbosity": "low",
}


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/v1/chat/completions", ChatCompletionRequest, CHAT),
        ("/v1/completions", CompletionRequest, STORY),
    ],
)
def test_fields_without_effect_have_none_and_null_is_leaving_out(server, path, kind, body):
    answers = [
        post(server, path, **body).json()["choices"],
        post(server, path, **{name: VALUES[name] for name in marked(kind, NoEffect)} | body).json()[
            "choices"
        ],
        post(server, path, **dict.fromkeys(kind.model_fields) | body).json()["choices"],
    ]
    assert answers[0] == answers[1] == answers[2]


def test_whole_numbers_are_whole_however_they_are_written(server):
    path, headers = "/v1/completions", {"Content-Type": "application/json"}
    whole = post(server, path, **STORY, n=2, stop_token_ids=[7], logit_bias={"5": 1}).json()
    written = (
        b'{"model": "storyteller", "prompt": "Once upon a time", "max_tokens": 3e1, "seed": 3.0,'
        b' "n": 2.0, "stop_token_ids": [7.0], "logit_bias": {"5": 1.0}}'
    )
    same = httpx2.post(server.url + path, content=written, headers=headers, timeout=60).json()
    assert same["choices"] == whole["choices"]


def test_tokenize_and_detokenize_are_each_others_inverse(server):
    for text in ("The capital of <|end|> is", "Grüße 👩‍🚀", " two  spaces\n"):
        found = post(server, "/tokenize", prompt=text, return_token_strs=True).json()
        assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
        assert found["max_model_len"] == 1024
        assert post(server, "/detokenize", tokens=found["tokens"]).json() == {"prompt": text}
    assert post(server, "/tokenize", prompt="a").json()["token_strs"] is None


def test_the_tokenizer_is_described_as_clients_read_it(server):
    """lm-eval's remote tokenizer asks for special tokens' ids, and writes conversations itself."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_FOLDER)
    response = httpx2.get(server.url + "/tokenizer_info", timeout=60)
    info = response.json()
    assert response.status_code == 200
    assert info["tokenizer_class"] == type(tokenizer).__name__
    assert info["chat_template"] == tokenizer.chat_template
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert info[name] == getattr(tokenizer, name)
    asked = {"prompt": info["eos_token"], "add_special_tokens": False}
    assert post(server, "/tokenize", **asked).json()["tokens"] == [tokenizer.eos_token_id]
    strict = ImmutableSandboxedEnvironment(undefined=StrictUndefined)  # as its own is
    written = strict.from_string(info["chat_template"]).render(
        messages=QUESTION, add_generation_prompt=True
    )
    assert written == tokenizer.apply_chat_template(
        QUESTION, tokenize=False, add_generation_prompt=True
    )
    within = asked | {"prompt": info["eos_token"] + "a"}
    assert tokenizer.eos_token_id not in post(server, "/tokenize", **within).json()["tokens"]


def test_a_model_without_a_template_has_a_tokenizer_to_describe(shared_server):
    info = httpx2.get(shared_server.url + "/tokenizer_info", timeout=60).json()
    assert info["chat_template"] is None
    assert info["eos_token"] == END


def test_tokenized_messages_are_what_a_chat_is_made_of(ai, server):
    found = post(
        server,
        "/tokenize",
        messages=QUESTION,
        add_generation_prompt=True,
        continue_final_message=False,
        add_special_tokens=False,
    ).json()
    begins = post(server, "/tokenize", messages=QUESTION, add_generation_prompt=False).json()
    assert begins["tokens"] == found["tokens"][:-1]  # without what the answer's turn begins with
    text = post(server, "/detokenize", tokens=found["tokens"]).json()["prompt"]
    assert text == "<|user|>What is the capital of France?<|end|><|assistant|>"
    assert ai.chat.completions.create(**CHAT).usage.prompt_tokens == found["count"]


def test_the_table_of_all_fields_is_current():
    assert openai_table() in (ROOT / "docs" / "openai.md").read_text()
