"""Tools in `/v1/responses`, over HTTP and through its client: a model calls them by the rules."""

import json

import pytest
from jsonschema import Draft202012Validator
from openai.types.responses import Response

from tests.api.openai.test_errors import error_of
from tests.api.openai.test_responses import LOGPROBS, RESPONSES, SHAPE
from tests.support.servers import LocalServer
from tests.support.tools import QUESTION, WEATHER, assert_fits
from tests.support.wire import assert_shape, openai_client, post

TOOLS = [
    {"type": "function", "name": "weather", "description": "Tells it.", "parameters": WEATHER},
    {"type": "function", "name": "clock", "strict": True},
]
CALL = {"type": "function_call", "call_id": "call_1", "name": "clock", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "noon"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def server(tool_server: LocalServer) -> LocalServer:
    return tool_server


def body(server: LocalServer, **fields: object) -> dict:
    return {
        "model": server.engine.model_name,
        "input": [QUESTION],
        "tools": TOOLS,
        "tool_choice": "required",
        "max_output_tokens": 400,
        "temperature": 0,
    } | fields


def ask(server: LocalServer, **fields: object) -> dict:
    response = post(server, RESPONSES, **body(server, **fields))
    assert response.status_code == 200, response.text
    assert_shape(Response, response.json())
    return response.json()


def calls_of(response: dict) -> list[dict]:
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    for call in calls:
        assert_fits(call["name"], call["arguments"])
        assert call["id"].startswith("fc_")
        assert call["call_id"].startswith("call_")
        assert call["status"] == "completed"
    return calls


def test_a_named_tool_is_called_once(server):
    choice = {"type": "function", "name": "clock"}
    response = ask(server, tool_choice=choice, temperature=1)
    (call,) = calls_of(response)
    assert (call["name"], call["arguments"]) == ("clock", "{}")
    assert response["tool_choice"] == choice


def test_allowed_tools_are_the_only_ones_that_are_called(server):
    clock = {"type": "function", "name": "clock"}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [clock]}
    response = ask(server, tool_choice=choice, temperature=1)
    assert {call["name"] for call in calls_of(response)} == {"clock"}
    assert response["tool_choice"] == choice
    unknown = choice | {"tools": [clock, clock | {"name": "other"}]}
    refused = post(server, RESPONSES, **body(server, tool_choice=unknown))
    assert error_of(refused, 400)["param"] == "tool_choice.tools.[1].name"


def test_a_call_that_is_cut_says_so(server):
    choice = {"type": "function", "name": "weather"}
    response = ask(server, tool_choice=choice, max_output_tokens=45)
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    (call,) = response["output"]
    assert call["status"] == "incomplete"
    assert call["arguments"].startswith("{")


def test_an_answer_is_a_call_or_fits_the_schema(server):
    fields = {"text": {"format": SHAPE}, "tool_choice": "auto", "temperature": 1}
    for _ in range(6):
        response = ask(server, **fields, parallel_tool_calls=False)
        (item,) = response["output"]
        if item["type"] == "message":
            validator = Draft202012Validator(SHAPE["schema"])
            validator.validate(json.loads(item["content"][0]["text"]))
        else:
            calls_of(response)


def test_a_conversation_goes_on_after_a_call(server):
    fields = {"tool_choice": "auto", "max_output_tokens": 5}
    with openai_client(server) as client:
        first = client.responses.create(**body(server, parallel_tool_calls=False))
        results = [RESULT | {"call_id": call.call_id} for call in first.output]
        turns = [QUESTION, *first.output, *results]
        assert client.responses.create(**body(server, input=turns, **fields)).output_text
    said = {"role": "assistant", "content": "Let me see."}
    output = [{"type": "input_text", "text": "noon"}]
    ask(server, input=[QUESTION, said, CALL, RESULT | {"output": output}], **fields)


def test_a_call_may_come_back_with_all_fields_that_the_client_knows(server):
    (call,) = (
        openai_client(server)
        .responses.create(**body(server, tool_choice={"type": "function", "name": "clock"}))
        .output
    )
    sent = call.model_dump(by_alias=True)
    assert sent.keys() > {"caller", "namespace", "async"}
    result = RESULT | {"call_id": call.call_id}
    ask(server, input=[QUESTION, sent, result], tool_choice="none", max_output_tokens=2)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools.[0].name", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools.[0].type", "invalid_value"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools.[1].name", "invalid_value"),
        ({"tools": [TOOLS[1] | {"parameters": {"type": "array"}}]}, "tools.[0].parameters.type",
         "invalid_json_schema"),
        ({"tools": None}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function", "name": "c"}}, "tool_choice.name", "invalid_value"),
        ({"tool_choice": "some"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "invalid_value"),
        (LOGPROBS, "include", "invalid_value"),
        ({"input": [QUESTION, CALL]}, "input", "invalid_value"),
        ({"input": [QUESTION, CALL, CALL]}, "input.[2].call_id", "invalid_value"),
        ({"input": [QUESTION, CALL, QUESTION]}, "input.[2]", "invalid_value"),
        ({"input": [QUESTION, RESULT]}, "input.[1].call_id", "invalid_value"),
        ({"input": [QUESTION, CALL | {"arguments": "[]"}]}, "input.[1].arguments", "invalid_value"),
        ({"input": [QUESTION, CALL | {"name": 5}]}, "input.[1].name", "invalid_value"),
    ],
)  # fmt: skip
def test_an_invalid_field_is_named(server, fields, param, code):
    error = error_of(post(server, RESPONSES, **body(server, **fields)), 400)
    assert (error["param"], error["code"]) == (param, code)
