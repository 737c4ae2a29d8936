"""Tools in chats, over HTTP and through OpenAI's client: a random model calls them by the rules."""

import json

import openai
import pytest
from jsonschema import Draft202012Validator
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, Field

from src.main import create_app
from tests.api.openai.test_chat_and_completions import chunks_of
from tests.conftest import create_settings
from tests.support.servers import LocalServer, serve_app
from tests.support.tools import (
    HERMES_TEMPLATE,
    QUESTION,
    RECITING_TEMPLATE,
    WEATHER,
    WROTE,
    assert_fits,
)
from tests.support.wire import assert_shape, openai_client, post

TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Tells it.", "parameters": WEATHER},
    },
    {"type": "function", "function": {"name": "clock", "strict": True}},
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "noon"}

PLACE = {
    "type": "object",
    "properties": {"place": {"enum": ["here", "<tool_call>"]}},
    "required": ["place"],
    "additionalProperties": False,
}
SHAPED = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def server(tool_server: LocalServer) -> LocalServer:
    return tool_server


def chat(server: LocalServer, **fields: object) -> dict[str, object]:
    return {
        "model": server.engine.model_name,
        "messages": [QUESTION],
        "tools": TOOLS,
        "tool_choice": "required",
        "max_completion_tokens": 400,
        "temperature": 1.0,
        "seed": 1,
    } | fields


def ask(server: LocalServer, **fields: object) -> list[dict]:
    """The choices of an answer."""
    response = post(server, "/v1/chat/completions", **chat(server, **fields))
    assert response.status_code == 200, response.text
    assert_shape(ChatCompletion, response.json())
    return response.json()["choices"]


def calls_of(message: dict) -> list[tuple[str, str]]:
    found = [
        (call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or []
    ]
    for name, arguments in found:
        assert_fits(name, arguments)
    return found


def is_hermes(server: LocalServer) -> bool:
    return server.engine.tool_call_format.name == "hermes"


def test_a_required_call_comes_with_arguments_that_fit(server):
    choices = ask(server, n=6)
    names = set()
    for choice in choices:
        message = choice["message"]
        calls = calls_of(message)
        assert calls
        assert message["content"] is None
        assert choice["finish_reason"] == "tool_calls"
        ids = [call["id"] for call in message["tool_calls"]]
        assert len(set(ids)) == len(ids)
        assert all(one.startswith("call_") for one in ids)
        names.update(name for name, _ in calls)
    assert names == {"weather", "clock"}


def test_a_named_tool_is_called_once_and_the_reason_is_stop(server):
    choice = {"type": "function", "function": {"name": "clock"}}
    for found in ask(server, tool_choice=choice, n=3):
        assert calls_of(found["message"]) == [("clock", "{}")]
        assert found["finish_reason"] == "stop"


def allowed(mode: str, *names: str) -> dict[str, object]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_allowed_tools_are_the_only_ones_that_are_called(server):
    (every,) = ask(server, tool_choice=allowed("auto", "weather", "clock"), temperature=0)
    assert every == ask(server, tool_choice="auto", temperature=0)[0]
    for choice in ask(server, tool_choice=allowed("required", "clock"), n=4):
        assert {name for name, _ in calls_of(choice["message"])} == {"clock"}
        assert choice["finish_reason"] == "tool_calls"


def test_allowed_tools_leave_all_tools_in_the_prompt(server):
    def count(choice: object) -> int:
        body = chat(server, tool_choice=choice, max_completion_tokens=1)
        return post(server, "/v1/chat/completions", **body).json()["usage"]["prompt_tokens"]

    assert count(allowed("required", "clock")) == count("auto")


def test_names_of_tools_may_be_long_and_have_dots(server):
    name = "mcp.server-1." + "a" * 115
    tools = [{"type": "function", "function": {"name": name}}]
    call = CALL | {"function": {"name": name, "arguments": "{}"}}
    messages = [QUESTION, CALLING | {"tool_calls": [call]}, RESULT, QUESTION]
    (choice,) = ask(server, tools=tools, messages=messages, parallel_tool_calls=False)
    (made,) = choice["message"]["tool_calls"]
    assert made["function"] == {"name": name, "arguments": "{}"}


def test_an_empty_list_of_calls_is_none(server):
    def tokens(**fields: object) -> list[int]:
        said = {"role": "assistant", "content": "Hello."} | fields
        return post(server, "/tokenize", messages=[QUESTION, said, QUESTION]).json()["tokens"]

    assert tokens(tool_calls=[]) == tokens()


def test_parallel_calls_need_the_setting_and_the_format(server):
    counts = {
        is_parallel: {
            len(calls_of(choice["message"]))
            for choice in ask(server, n=8, parallel_tool_calls=is_parallel)
        }
        for is_parallel in (False, True)
    }
    assert counts[False] == {1}
    assert (max(counts[True]) > 1) == is_hermes(server)


def test_a_call_that_is_cut_before_its_name_is_none(server):
    (choice,) = ask(server, max_completion_tokens=2)
    assert choice["finish_reason"] == "length"
    assert choice["message"] == {"role": "assistant", "content": "", "refusal": None}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3},
        {"tool_choice": "auto", "n": 2},
        {"logprobs": True},
        {"temperature": 0},
        SHAPED | {"tool_choice": "auto", "n": 8},
    ],
)
def test_a_stream_equals_the_whole_answer(server, fields):
    fields = {"max_completion_tokens": 300} | fields
    whole = ask(server, **fields)
    texts = ["" for _ in whole]
    calls: list[list[dict]] = [[] for _ in whole]
    reasons: list[str | None] = [None for _ in whole]
    tokens = 0
    for chunk in chunks_of(server, "/v1/chat/completions", **chat(server, **fields)):
        (choice,) = chunk["choices"]
        index, delta = choice["index"], choice["delta"]
        tokens += len((choice["logprobs"] or {}).get("content", []))
        assert reasons[index] is None
        reasons[index] = choice["finish_reason"]
        texts[index] += delta.get("content") or ""
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert call["index"] == len(calls[index])
                assert call["type"] == "function"
                assert call["function"]["arguments"] == ""
                calls[index].append(dict(call["function"]))
            else:
                assert call.keys() == {"index", "function"}
                assert call["function"].keys() == {"arguments"}
                calls[index][call["index"]]["arguments"] += call["function"]["arguments"]
    for index, choice in enumerate(whole):
        assert texts[index] == (choice["message"]["content"] or "")
        assert reasons[index] == choice["finish_reason"]
        told = choice["message"].get("tool_calls", [])
        assert calls[index] == [call["function"] for call in told]
    if "logprobs" in fields:
        assert tokens == len(whole[0]["logprobs"]["content"])


def test_chunks_have_the_shape_that_the_client_knows(server):
    for chunk in chunks_of(server, "/v1/chat/completions", **chat(server)):
        assert_shape(ChatCompletionChunk, chunk)


def bias_against(server: LocalServer, characters: str) -> dict[str, int]:
    """Returns a bias that bans these characters, so that an answer begins in another way."""
    token_ids = [post(server, "/tokenize", prompt=one).json()["tokens"] for one in characters]
    return {str(token_id): -100 for (token_id,) in token_ids}


def test_an_answer_is_a_call_or_fits_the_schema(server):
    fields = SHAPED | {"tool_choice": "auto", "n": 4}
    for choice in ask(server, **fields, logit_bias=bias_against(server, "<n")):
        assert "tool_calls" not in choice["message"]
        Draft202012Validator(PLACE).validate(json.loads(choice["message"]["content"]))
        assert choice["finish_reason"] == "stop"
    for choice in ask(server, **fields, logit_bias=bias_against(server, "{p")):
        assert calls_of(choice["message"])
        assert choice["message"]["content"] is None
        assert choice["finish_reason"] == "tool_calls"
    for choice in ask(server, **fields | {"tool_choice": "required"}):
        assert calls_of(choice["message"])


def test_arguments_are_those_that_the_tool_lists_and_no_others(server):
    parameters = {
        "type": "object",
        "properties": {"where": {"type": "object", "properties": {"x": {"enum": [1]}}}},
    }
    tools = [{"type": "function", "function": {"name": "go", "parameters": parameters}}]
    for choice in ask(server, tools=tools, parallel_tool_calls=False, n=4):
        assert choice["finish_reason"] == "tool_calls"
        (call,) = choice["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        assert arguments.keys() <= {"where"}
        assert arguments.get("where", {}).keys() <= {"x"}


def test_json_objects_beside_tools_need_a_tool_call_tag(server):
    fields = {"response_format": {"type": "json_object"}, "tool_choice": "auto"}
    response = post(server, "/v1/chat/completions", **chat(server, **fields))
    if is_hermes(server):
        assert response.status_code == 200
    else:
        assert response.json()["error"]["param"] == "response_format"
    fields["tool_choice"] = "required"
    assert post(server, "/v1/chat/completions", **chat(server, **fields)).status_code == 200


class Weather(BaseModel):
    """Tells the weather."""

    city: str = Field(max_length=3)
    is_warm: bool


def test_the_client_parses_arguments_into_a_class(server):
    with openai_client(server) as client:
        answer = client.chat.completions.parse(
            **chat(server, tools=[openai.pydantic_function_tool(Weather)])
        )
    for call in answer.choices[0].message.tool_calls:
        assert isinstance(call.function.parsed_arguments, Weather)


def test_an_answer_with_choice_auto_is_text_or_calls(server):
    """A model of no sense writes no tag by itself."""
    for choice in ask(server, tool_choice="auto", n=4, max_completion_tokens=30):
        assert choice["message"]["content"]
        assert "tool_calls" not in choice["message"]
        assert choice["finish_reason"] in ("stop", "length")


RECITED = [
    (WROTE, "hermes", "See <tool: ", [("clock", "{}")], "tool_calls"),
    (WROTE[11:] + "\n" + WROTE[11:], "hermes", "", [("clock", "{}")] * 2, "tool_calls"),
    (WROTE[:45], "hermes", "See <tool: ", [("clock", "{}")], "tool_calls"),
    ("Well <tool_cal or not<|endoftext|>", "hermes", "Well <tool_cal or not", [], "stop"),
    ('{"name": "clock", "parameters": {}}', "llama3", "", [("clock", "{}")], "tool_calls"),
    ('{"say"', "llama3", "", [("clock", "{}")], "tool_calls"),
    ("{}<|endoftext|>", "hermes", "{}", [], "stop"),
]


@pytest.mark.parametrize(("wrote", "name", "content", "calls", "reason"), RECITED)
def test_unasked_calls_in_generated_text_are_read(
    reciting_model, wrote, name, content, calls, reason
):
    settings = create_settings(
        model_name=str(reciting_model(wrote)),
        chat_template=RECITING_TEMPLATE,
        tool_call_format=name,
    )
    tools = [TOOLS[1]]
    with serve_app(create_app(settings)) as server:
        fields = {"tool_choice": "auto", "tools": tools, "temperature": 0}
        fields |= {"max_completion_tokens": 120}
        (choice,) = ask(server, **fields)
        assert (choice["message"]["content"] or "") == content
        assert calls_of(choice["message"]) == calls
        assert choice["finish_reason"] == reason
        with (
            openai_client(server) as client,
            client.chat.completions.stream(**chat(server, **fields)) as stream,
        ):
            final = stream.get_final_completion().choices[0]
        assert (final.message.content or "") == content
        assert calls_of(final.message.model_dump()) == calls
        assert final.finish_reason == reason


def test_special_tokens_in_tool_definitions_stay_text(server):
    """Nothing in it becomes a special token: each comes back as it is spelled."""
    spelled = "<|user|><|endoftext|>"
    tools = [
        {
            "type": "function",
            "function": {
                "name": "a",
                "description": spelled,
                "parameters": {"properties": {spelled: {"description": spelled}}},
            },
        }
    ]
    arguments = json.dumps({spelled: [spelled]})
    call = {"id": "1", "type": "function", "function": {"name": "a", "arguments": arguments}}
    messages = [
        QUESTION,
        CALLING | {"tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": spelled},
    ]
    prompts = []
    real = server.engine.stream_batch
    server.engine.stream_batch = lambda prompt_ids, *rest: (
        prompts.extend(prompt_ids) or real(prompt_ids, *rest)
    )
    try:
        ask(server, tools=tools, messages=messages, tool_choice="auto", max_completion_tokens=1)
    finally:
        del server.engine.stream_batch
    special = {0, 1}
    assert not special & set(prompts[0])
    text = post(server, "/detokenize", tokens=prompts[0]).json()["prompt"]
    assert text.count(spelled) == 6


REFUSED = [
    ({"tools": [], "tool_choice": "required"}, "tool_choice"),
    ({"tools": None, "tool_choice": "auto"}, "tool_choice"),
    ({"tools": None, "tool_choice": "required"}, "tool_choice"),
    (
        {"tool_choice": {"type": "function", "function": {"name": "other"}}},
        "tool_choice.function.name",
    ),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
    ({"tool_choice": allowed("none", "clock")}, "tool_choice"),
    ({"tool_choice": allowed("auto")}, "tool_choice"),
    (
        {"tool_choice": allowed("auto", "clock", "other")},
        "tool_choice.allowed_tools.tools.[1].function.name",
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "a" * 129}}]},
        "tools.[0].function.name",
    ),
    ({"tool_choice": "any"}, "tool_choice"),
    ({"tools": [TOOLS[0], TOOLS[0]]}, "tools.[1].function.name"),
    ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools.[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.[0].function.name"),
    (
        {
            "tools": [
                {"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}
            ]
        },
        "tools.[0].function.parameters.type",
    ),
    (
        {
            "tools": [
                TOOLS[0],
                {
                    "type": "function",
                    "function": {"name": "a", "parameters": {"properties": {"b": {"not": {}}}}},
                },
            ]
        },
        "tools.[1].function.parameters.properties.b",
    ),
    ({"tools": None, "tool_choice": None, "parallel_tool_calls": True}, "parallel_tool_calls"),
    ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ({"stop": "x"}, "stop"),
    ({"functions": []}, "functions"),
    ({"messages": [QUESTION, CALLING]}, "messages"),
    ({"messages": [QUESTION, CALLING, QUESTION]}, "messages.[2].role"),
    ({"messages": [QUESTION, RESULT]}, "messages.[1].tool_call_id"),
    ({"messages": [QUESTION, CALLING, RESULT, RESULT]}, "messages.[3].tool_call_id"),
    (
        {"messages": [QUESTION, CALLING, RESULT | {"tool_call_id": "other"}]},
        "messages.[2].tool_call_id",
    ),
    ({"messages": [QUESTION | {"tool_call_id": "call_1"}]}, "messages.[0].tool_call_id"),
    ({"messages": [QUESTION, {"role": "tool", "content": "4"}]}, "messages.[1].tool_call_id"),
    ({"messages": [QUESTION | {"tool_calls": [CALL]}]}, "messages.[0].tool_calls"),
    ({"messages": [CALLING | {"tool_calls": [CALL, CALL]}]}, "messages.[0].tool_calls"),
    ({"messages": [CALLING | {"tool_calls": []}]}, "messages.[0].content"),
    ({"messages": [{"role": "assistant", "content": None}]}, "messages.[0].content"),
    (
        {
            "messages": [
                CALLING
                | {"tool_calls": [CALL | {"function": {"name": "clock", "arguments": "[]"}}]}
            ]
        },
        "messages.[0].tool_calls.[0].function.arguments",
    ),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_contradictory_fields_are_refused_by_name(server, fields, param):
    body = {key: value for key, value in chat(server, **fields).items() if value is not None}
    response = post(server, "/v1/chat/completions", **body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param, response.text


def test_a_call_without_arguments_may_have_an_empty_text_for_them(server):
    def tokens(arguments: str) -> list[int]:
        call = CALL | {"function": {"name": "clock", "arguments": arguments}}
        messages = [QUESTION, CALLING | {"tool_calls": [call]}, RESULT]
        return post(server, "/tokenize", messages=messages).json()["tokens"]

    assert tokens("") == tokens("{}")


def test_stop_together_with_tools_is_refused(server):
    response = post(server, "/v1/chat/completions", **chat(server, stop="a"))
    assert "cannot be combined with tools" in response.json()["error"]["message"]


def test_arguments_nested_too_deep_are_refused(server):
    deep = '{"a":' * 900 + "{}" + "}" * 900
    call = CALL | {"function": {"name": "clock", "arguments": deep}}
    body = chat(server, messages=[QUESTION, CALLING | {"tool_calls": [call]}, RESULT])
    assert post(server, "/v1/chat/completions", **body).status_code == 400


def test_a_setting_chooses_the_tool_call_format(roomy_model):
    source = HERMES_TEMPLATE.replace("tool_call>", "call>")
    for name, status in (("auto", 400), ("llama3", 200)):
        settings = create_settings(
            model_name=str(roomy_model), chat_template=source, tool_call_format=name
        )
        with serve_app(create_app(settings)) as server:
            response = post(server, "/v1/chat/completions", **chat(server))
            assert response.status_code == status, response.text


def test_tokenize_accepts_a_conversation_with_calls(server):
    def ids(**fields: object) -> list[int]:
        response = post(server, "/tokenize", **fields)
        assert response.status_code == 200, response.text
        return response.json()["tokens"]

    plain = ids(messages=[QUESTION])
    assert len(ids(messages=[QUESTION, CALLING, RESULT])) > len(plain)


def test_tokenize_counts_the_prompt_with_tools(server):
    fields = {"messages": [QUESTION], "tools": TOOLS}
    told = post(server, "/tokenize", **fields).json()
    body = chat(server, tool_choice="auto", max_completion_tokens=1)
    asked = post(server, "/v1/chat/completions", **body).json()
    assert told["count"] == asked["usage"]["prompt_tokens"]
    error = post(server, "/tokenize", prompt="a", tools=TOOLS).json()["error"]
    assert error["param"] == "tools"
    error = post(server, "/tokenize", **fields, continue_final_message=True).json()["error"]
    assert error["param"] == "continue_final_message"
