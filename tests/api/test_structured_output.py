"""Structured output over HTTP: every answer has the requested format."""

import asyncio
import json
import re
from collections.abc import Iterator

import httpx2
import openai
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from src.api.fields.structured import schema_source
from src.engine.structured_output.fork_server import ForkServer
from src.engine.structured_output.grammar_process import GrammarProcess
from src.engine.structured_output.vocabulary import UnreadableTokenizerError
from src.errors import InvalidSchemaError
from tests.api.openai.test_chat_and_completions import QUESTION, chunks_of
from tests.conftest import create_settings, wait_until
from tests.support.servers import LocalServer, parse_events, serve_app
from tests.support.wire import PLAIN_TEMPLATE, openai_client, post

ENGINES = ("continuous", "reference")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "kind": {"enum": ["cat", "hat"]},
        "more": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=ENGINES)
def shaped(request, tiny_model) -> Iterator[LocalServer]:
    """A server with a random model that generates end tokens, for each engine."""
    from src.main import create_app

    settings = create_settings(
        model_name=str(tiny_model()), engine=request.param, chat_template=PLAIN_TEMPLATE
    )
    with serve_app(create_app(settings)) as server:
        yield server
        wait_until(lambda: server.engine.num_live == 0)


def chat(server: LocalServer, **fields: object) -> dict[str, object]:
    return {
        "model": server.engine.model_name,
        "messages": QUESTION,
        "max_completion_tokens": 80,
        "temperature": 0.7,
        "seed": 1,
    } | fields


def text(server: LocalServer, **fields: object) -> dict[str, object]:
    return {
        "model": server.engine.model_name,
        "prompt": "the cat",
        "max_tokens": 80,
        "seed": 1,
    } | fields


def answers(server: LocalServer, path: str, body: dict[str, object]) -> list[tuple[str, str]]:
    """Returns (text, finish reason) of each choice."""
    response = post(server, path, **body)
    assert response.status_code == 200, response.text
    choices = response.json()["choices"]
    return [
        (
            choice["text"] if "text" in choice else choice["message"]["content"],
            choice["finish_reason"],
        )
        for choice in choices
    ]


def assert_fits(choices: list[tuple[str, str]], schema: dict = SCHEMA) -> None:
    for content, reason in choices:
        if reason == "stop":
            Draft202012Validator(schema).validate(json.loads(content))
        else:
            assert reason == "length"


def test_a_chat_fits_its_json_schema_streamed_or_not(shaped):
    body = chat(shaped, response_format=FORMAT, n=4)
    choices = answers(shaped, "/v1/chat/completions", body)
    assert_fits(choices)
    assert "stop" in [reason for _, reason in choices]
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks_of(shaped, "/v1/chat/completions", **body):
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content") or ""
    assert list(texts.values()) == [content for content, _ in choices]


def test_json_object_mode_gives_an_object(shaped):
    for fields in (
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"json_object": True}},
    ):
        choices = answers(shaped, "/v1/chat/completions", chat(shaped, **fields, n=4))
        assert_fits(choices, {"type": "object"})


def test_the_format_text_does_not_constrain_the_answer(shaped):
    free = answers(shaped, "/v1/chat/completions", chat(shaped))
    fields = {"response_format": {"type": "text"}}
    assert answers(shaped, "/v1/chat/completions", chat(shaped, **fields)) == free


SHAPES = {
    "json": (SCHEMA, lambda answer: assert_fits([(answer, "stop")])),
    "regex": ("(cat|hat){2}!", lambda answer: re.fullmatch("(cat|hat){2}!", answer)),
    "choice": (["the cat", "the mat"], lambda answer: answer in {"the cat", "the mat"}),
    "grammar": ('start: "a" b\nb: "b" | "(" b ")"', lambda answer: answer.startswith("a")),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_every_grammar_kind_works_on_every_route_and_by_its_old_name(shaped, kind):
    shape, check = SHAPES[kind]
    values = [shape, json.dumps(shape)] if kind == "json" else [shape]
    for value in values:
        new, old = {"structured_outputs": {kind: value}}, {f"guided_{kind}": value}
        seen = set()
        for fields in (new, old):
            for path, body in (
                ("/v1/completions", text(shaped, temperature=0, **fields)),
                ("/v1/chat/completions", chat(shaped, temperature=0, **fields)),
            ):
                ((content, reason),) = answers(shaped, path, body)
                assert reason == "stop"
                assert check(content) is not False
                seen.add((path, content))
        assert len(seen) == 2, "both names mean the same"
        native = post(
            shaped,
            "/generate",
            prompt="the cat",
            max_length=80,
            temperature=0,
            return_full_text=False,
            **new,
        )
        (generated,) = native.json()["generated"]
        assert generated["finish_reason"] == "stop"
        assert ("/v1/completions", generated["text"]) in seen


def test_a_grammar_applies_to_all_prompts_of_a_request(shaped):
    fields = {"prompt": ["the cat", "the hat"], "n": 2, "guided_regex": "[a-z]{3}", "echo": True}
    choices = answers(shaped, "/v1/completions", text(shaped, **fields))
    assert [content[:7] for content, _ in choices] == ["the cat"] * 2 + ["the hat"] * 2
    assert all(len(content) == 10 and reason == "stop" for content, reason in choices)
    batch = post(
        shaped,
        "/generate/batch",
        prompts=["the cat", "the hat"],
        structured_outputs={"choice": ["yes", "no"]},
        return_full_text=False,
    ).json()
    assert {one["generated"][0]["text"] for one in batch} <= {"yes", "no"}


def test_an_answer_cut_at_max_tokens_has_the_finish_reason_length(shaped):
    body = chat(shaped, response_format=FORMAT, max_completion_tokens=3)
    ((content, reason),) = answers(shaped, "/v1/chat/completions", body)
    assert reason == "length"
    assert content.startswith("{")


class Kind(BaseModel):
    """A nested model."""

    w: str = Field(max_length=2)
    n: int | None = Field(ge=-9, le=9)


class Thing(BaseModel):
    """A model with references and unions in its schema."""

    k: list[Kind] = Field(max_length=1)
    o: bool


def test_the_clients_parse_returns_an_object_of_the_class(shaped):
    with openai_client(shaped) as client:
        fields = chat(shaped, temperature=0)
        answer = client.chat.completions.parse(**fields, response_format=Thing)
        assert isinstance(answer.choices[0].message.parsed, Thing)
        with client.chat.completions.stream(**fields, response_format=Thing) as stream:
            for _ in stream:
                pass
            assert stream.get_final_completion().choices[0].message.parsed == (
                answer.choices[0].message.parsed
            )
        with pytest.raises(openai.LengthFinishReasonError):
            client.chat.completions.parse(
                **fields | {"max_completion_tokens": 2}, response_format=Thing
            )


REFUSED = [
    (
        {"response_format": {"type": "json_schema"}},
        "response_format",
        "invalid_value",
    ),
    (
        {"response_format": {"type": "text", "json_schema": FORMAT["json_schema"]}},
        "response_format",
        "invalid_value",
    ),
    ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema.schema",
        "missing_required_parameter",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
        "response_format.json_schema.name",
        "invalid_value",
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"properties": {"b": {"not": {}}}}},
            }
        },
        "response_format.json_schema.schema.properties.b",
        "invalid_json_schema",
    ),
    ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
    ({"structured_outputs": {"json_object": False}}, "structured_outputs", "invalid_value"),
    (
        {"structured_outputs": {"regex": "a", "choice": ["a"]}},
        "structured_outputs",
        "invalid_value",
    ),
    ({"structured_outputs": {"shape": 1}}, "structured_outputs.shape", "unknown_parameter"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "invalid_value"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "invalid_grammar"),
    (
        {"structured_outputs": {"json": {"anyOf": [{}, {"type": "x"}]}}},
        "structured_outputs.json.anyOf.[1]",
        "invalid_json_schema",
    ),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "invalid_json_schema"),
    ({"guided_json": {"$ref": "#"}}, "guided_json.$ref", "invalid_json_schema"),
    ({"guided_json": '"a"'}, "guided_json", "invalid_json_schema"),
    ({"guided_json": '{"minimum": NaN}'}, "guided_json", "invalid_json_schema"),
    ({"guided_grammar": "start: <|endoftext|>"}, "guided_grammar", "invalid_grammar"),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "invalid_value"),
    ({"guided_regex": "a", "response_format": FORMAT}, "response_format", "invalid_value"),
    ({"guided_regex": "a", "stop": "b"}, "stop", "invalid_value"),
    ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos", "invalid_value"),
    ({"guided_regex": "a", "stop_token_ids": [70]}, "stop_token_ids", "invalid_value"),
    ({"guided_regex": "a{100000}"}, "guided_regex", "invalid_grammar"),
    ({"guided_choice": ["a" * 20_001]}, "guided_choice", "invalid_grammar"),
    ({"guided_json": {"enum": ["a"] * 70_000}}, "guided_json", "invalid_grammar"),
]


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_an_unsupported_grammar_is_refused_with_its_field(shaped, fields, param, code, stream):
    response = post(shaped, "/v1/chat/completions", **chat(shaped, stream=stream, **fields))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert error["type"] == "invalid_request_error"


def test_a_special_token_may_end_an_answer(shaped):
    fields = {"guided_regex": "[a-z]{3,}", "stop_token_ids": [1], "logit_bias": {"1": 100}}
    ((content, reason),) = answers(shaped, "/v1/completions", text(shaped, **fields))
    assert reason == "stop"
    assert 3 <= len(content) <= 6


def test_an_object_has_only_the_listed_properties(shaped):
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}}
    shape = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = post(shaped, "/v1/chat/completions", **chat(shaped, response_format=shape, n=8)).json()
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "stop"
        assert json.loads(choice["message"]["content"]) in ({}, {"a": 1})


def test_the_native_api_names_the_field_of_a_refused_schema(shaped):
    schema = {"properties": {"a": {"uniqueItems": True}}}
    response = post(shaped, "/generate", prompt="a", structured_outputs={"json": schema})
    assert response.status_code == 422
    (problem,) = response.json()["detail"]
    assert problem["loc"] == ["body", "structured_outputs", "json", "properties", "a"]
    assert "uniqueItems" in problem["msg"]


def test_a_name_with_a_lone_surrogate_is_refused_with_400(shaped):
    schema = '{"properties": {"\\ud800": {"not": {}}}}'
    for value in (schema, json.loads(schema)):
        body = text(shaped, structured_outputs={"json": value})
        response = httpx2.post(
            shaped.url + "/v1/completions",
            content=json.dumps(body),
            headers={"Content-Type": "application/json"},
        )
        assert response.status_code == 400


def test_a_schema_that_is_not_json_is_refused():
    with pytest.raises(InvalidSchemaError):
        schema_source({"minimum": float("nan")}, ())
    deep: dict = {}
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(InvalidSchemaError):
        schema_source(deep, ())


def test_a_model_with_an_unsupported_tokenizer_serves_and_refuses_grammars(
    start_server, monkeypatch, caplog
):
    words = Tokenizer(WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    real = ForkServer.__init__
    monkeypatch.setattr(
        ForkServer, "__init__", lambda self, _, *rest: real(self, words.to_str(), *rest)
    )
    server = start_server()
    response = post(server, "/v1/completions", **text(server, guided_regex="a"))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "guided_regex"
    assert "tokenizer" in response.json()["error"]["message"]
    assert post(server, "/v1/completions", **text(server)).status_code == 200
    assert UnreadableTokenizerError.__name__ not in response.text


def test_grammars_are_counted(start_server):
    server = start_server()
    for pattern in ("a", "a", "b", "("):
        post(server, "/v1/completions", **text(server, guided_regex=pattern))
    counts = {
        outcome: server.sample("inference_grammars_total", outcome)
        for outcome in ("compiled", "cached", "refused")
    }
    assert counts == {"compiled": 2, "cached": 1, "refused": 1}
    assert server.sample("inference_grammar_seconds_count") == 3


def test_limits_are_settings(start_server):
    server = start_server(max_grammar_bytes=8)
    for pattern, status in (("a{2,4}", 200), ("a{2,4}bcd", 400)):
        body = text(server, guided_regex=pattern)
        assert post(server, "/v1/completions", **body).status_code == status


@pytest.mark.parametrize("stream", [False, True])
def test_a_grammar_that_leads_to_a_dead_end_is_the_requests_fault(shaped, monkeypatch, stream):
    real = GrammarProcess.advance

    def advance(process: GrammarProcess, steps: list) -> None:
        if any(token_ids for _, token_ids in steps):
            process.kill()  # as the kernel does when it exceeds its limits
        real(process, steps)

    monkeypatch.setattr(GrammarProcess, "advance", advance)
    body = text(shaped, max_tokens=12, guided_regex="q{9}" + "a" * stream, stream=stream)
    response = post(shaped, "/v1/completions", **body)
    if response.status_code == 200:  # a stream that had begun
        assert stream
        *_, (_, last) = parse_events(response.text)
    else:
        assert response.status_code == 400
        last = response.text
    error = json.loads(last)["error"]
    assert error["type"] == "invalid_request_error"
    assert "GRAMMAR_TIMEOUT_SECONDS" in error["message"]
    assert shaped.sample("inference_sequences_failed_total", "dead_end") > 0


def test_closing_a_structured_stream_ends_its_request(start_server):
    server = start_server()
    server.slow_down(0.02)
    with openai_client(server) as client:
        stream = client.completions.create(
            **text(server, prompt="the", max_tokens=100),
            stream=True,
            extra_body={"guided_regex": "q+"},
        )
        next(iter(stream))
        stream.close()
    wait_until(lambda: server.engine.num_live == 0, seconds=5)


def test_concurrent_answers_fit_their_own_grammars(shaped):
    shapes = [
        {"guided_choice": [f"choice {index}", f"other {index}"]} if index % 2 else {}
        for index in range(12)
    ]

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=shaped.url + "/v1", api_key="x", max_retries=0
        ) as client:
            asked = [
                client.completions.create(**text(shaped, max_tokens=12), extra_body=fields)
                for fields in shapes
            ]
            return [answer.choices[0].text for answer in await asyncio.gather(*asked)]

    contents = asyncio.run(ask())
    ((free, _),) = answers(shaped, "/v1/completions", text(shaped, max_tokens=12))
    for index, content in enumerate(contents):
        expected = shapes[index].get("guided_choice", [free])
        assert content in expected
