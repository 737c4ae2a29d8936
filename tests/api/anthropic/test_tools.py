"""Tools in Anthropic's messages, over HTTP and through its client: a model calls by the rules."""

import pytest
from anthropic.types import Message, ToolUseBlock

from tests.api.anthropic.test_messages import COUNT, MESSAGES, error_of, events_of
from tests.support.servers import LocalServer
from tests.support.tools import QUESTION, SCHEMAS, WEATHER, assert_fits
from tests.support.wire import (
    assert_shape,
    post,
)

TOOLS = [
    {"name": "weather", "description": "Tells it.", "input_schema": WEATHER},
    {"name": "clock", "input_schema": SCHEMAS["clock"], "cache_control": {"type": "ephemeral"}},
]
CALL = {"type": "tool_use", "id": "toolu_1", "name": "clock", "input": {}}
CALLING = {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, CALL]}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "noon"}
RESULTS = {"role": "user", "content": [RESULT, {"type": "text", "text": "And now?"}]}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def server(tool_server: LocalServer) -> LocalServer:
    return tool_server


def body(server: LocalServer, **fields: object) -> dict:
    return {
        "model": server.engine.model_name,
        "messages": [QUESTION],
        "tools": TOOLS,
        "tool_choice": {"type": "any"},
        "max_tokens": 400,
        "temperature": 0,
    } | fields


def ask(server: LocalServer, **fields: object) -> dict:
    response = post(server, MESSAGES, **body(server, **fields))
    assert response.status_code == 200, response.text
    assert_shape(Message, response.json())
    return response.json()


def calls_of(message: dict) -> list[dict]:
    calls = [block for block in message["content"] if block["type"] == "tool_use"]
    for call in calls:
        assert_fits(call["name"], call["input"])
        assert call["id"].startswith("toolu_")
    assert len({call["id"] for call in calls}) == len(calls)
    return calls


def test_a_call_that_is_cut_says_so(server):
    choice = {"type": "tool", "name": "weather"}
    message = ask(server, tool_choice=choice, max_tokens=45)
    assert message["stop_reason"] == "max_tokens"
    assert message["content"][-1]["input"] == {}
    *_, end, _ = events_of(server, **body(server, tool_choice=choice, max_tokens=45))
    assert end["delta"]["stop_reason"] == "max_tokens"


def test_a_conversation_goes_on_after_a_call(server):
    fields = {"tool_choice": {"type": "auto"}, "max_tokens": 5}
    first = ask(server)
    results = [
        {
            "type": "tool_result",
            "tool_use_id": call["id"],
            "content": [{"type": "text", "text": "4"}],
        }
        for call in first["content"]
    ]
    turns = [QUESTION, {"role": "assistant", "content": first["content"]}]
    if len(results) == 1:  # llama3's template writes one call a turn
        ask(server, messages=[*turns, {"role": "user", "content": results}], **fields)
    ask(server, messages=[QUESTION, CALLING, RESULTS], **fields)


def test_a_call_may_come_back_with_all_fields_that_the_client_knows(server):
    sent = ToolUseBlock.model_validate(CALL).model_dump()
    assert sent.keys() > {"toolset_name", "caller"}
    fields = {"tool_choice": {"type": "none"}, "max_tokens": 2}
    ask(server, messages=[QUESTION, CALLING | {"content": [sent]}, RESULTS], **fields)


def test_count_tokens_counts_tools_unless_the_choice_is_none(server):
    def count(**fields: object) -> int:
        asked = {"model": server.engine.model_name, "messages": [QUESTION]} | fields
        return post(server, COUNT, **asked).json()["input_tokens"]

    assert count(tools=TOOLS) > count() + 50
    assert count(tools=TOOLS, tool_choice={"type": "none"}) == count()
    answer = ask(server, max_tokens=1)
    usage = answer["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == count(tools=TOOLS)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools.0.name"),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools.1.name"),
        (
            {"tools": [{"name": "a", "input_schema": {"type": "array"}}]},
            "tools.0.input_schema.type",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "a"}]}, "tools.0.input_schema"),
        ({"tools": None}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "c"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"stop_sequences": ["a"]}, "stop_sequences"),
        ({"messages": [QUESTION, CALLING, QUESTION]}, "messages.2.content"),
        ({"messages": [QUESTION, RESULTS]}, "messages.1.content.0.tool_use_id"),
        ({"messages": [{"role": "user", "content": [CALL]}]}, "messages.0.content.0"),
        ({"messages": [QUESTION, {"role": "assistant", "content": [CALL, CALL]}, RESULTS]},
         "messages.1.content.1"),
        ({"messages": [{"role": "user", "content": [RESULT | {"content": [CALL]}]}]},
         "messages.0.content.0.content"),
        ({"system": [CALL]}, "system"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_named(server, fields, place):
    response = post(server, MESSAGES, **body(server, **fields))
    assert error_of(response, 400, "invalid_request_error").startswith(f"{place}: ")
