"""Tools in `/v1/responses`, over HTTP and through its client: a model calls them by the rules."""

import json

import pytest
from jsonschema import Draft202012Validator
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from src.main import create_app
from tests.api.openai.test_errors import error_of
from tests.api.openai.test_responses import LOGPROBS, RESPONSES, SHAPE, events_of
from tests.conftest import create_settings
from tests.support.servers import LocalServer, serve_app
from tests.support.tools import QUESTION, RECITING_TEMPLATE, WEATHER, WROTE, assert_fits
from tests.support.wire import PLAIN_TEMPLATE, assert_no_extras, assert_shape, openai_client, post

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


def test_a_call_that_must_be_comes_with_arguments_that_fit(server):
    for temperature in (0, 1, 1, 1):
        # Whoever draws calls at random may never come to an end of them.
        response = ask(server, temperature=temperature, parallel_tool_calls=temperature == 0)
        assert calls_of(response) == response["output"] != []
        assert response["status"] == "completed"
        assert response["tools"] == TOOLS
        assert response["tool_choice"] == "required"


def test_a_named_tool_is_called_once(server):
    choice = {"type": "function", "name": "clock"}
    response = ask(server, tool_choice=choice, temperature=1)
    (call,) = calls_of(response)
    assert (call["name"], call["arguments"]) == ("clock", "{}")
    assert response["tool_choice"] == choice


def test_parallel_calls_can_be_switched_off(server):
    for _ in range(4):
        response = ask(server, parallel_tool_calls=False, temperature=1)
        assert len(calls_of(response)) == 1
        assert response["parallel_tool_calls"] is False


def test_a_call_that_is_cut_says_so(server):
    choice = {"type": "function", "name": "weather"}
    response = ask(server, tool_choice=choice, max_output_tokens=45)
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    (call,) = response["output"]
    assert call["status"] == "incomplete"
    assert call["arguments"].startswith("{")


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_stream_says_what_the_whole_answer_says(server, choice):
    fields = {"tool_choice": choice, "max_output_tokens": 60 if choice == "auto" else 400}
    whole = ask(server, **fields)
    adapter = TypeAdapter(ResponseStreamEvent)
    added: list[dict] = []
    done: list[dict] = []
    written: dict[int, str] = {}
    for event in events_of(server, **body(server, **fields)):
        assert_no_extras(adapter.validate_python(event, strict=True))
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(added) == len(done)
            assert event["item"]["status"] == "in_progress"
            added.append(event["item"])
        elif kind == "output_item.done":
            done.append(event["item"])
        elif kind in ("function_call_arguments.delta", "output_text.delta"):
            assert event["item_id"] == added[event["output_index"]]["id"]
            index = event["output_index"]
            written[index] = written.get(index, "") + event["delta"]
        elif kind == "function_call_arguments.done":
            assert event["arguments"] == written[event["output_index"]]
    assert event["response"]["output"] == done
    for index, (item, expected) in enumerate(zip(done, whole["output"], strict=True)):
        if item["type"] == "function_call":
            assert item["arguments"] == written[index] == expected["arguments"]
            assert item["name"] == expected["name"] == added[index]["name"]
            assert added[index]["arguments"] == ""
        else:
            assert item["content"][0]["text"] == written[index] == expected["content"][0]["text"]


def test_an_answer_is_a_call_or_has_the_shape_that_is_asked_for(server):
    fields = {"text": {"format": SHAPE}, "tool_choice": "auto", "temperature": 1}
    for _ in range(6):
        response = ask(server, **fields, parallel_tool_calls=False)
        (item,) = response["output"]
        if item["type"] == "message":
            validator = Draft202012Validator(SHAPE["schema"])
            validator.validate(json.loads(item["content"][0]["text"]))
        else:
            calls_of(response)


def test_the_clients_own_stream_puts_calls_together(server):
    with openai_client(server) as client, client.responses.stream(**body(server)) as stream:
        response = stream.get_final_response()
    expected = [(call["name"], call["arguments"]) for call in calls_of(ask(server))]
    assert [(item.name, item.arguments) for item in response.output] == expected


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
    response = post(server, RESPONSES, **body(server, input=[sent | {"namespace": "a"}, result]))
    error = error_of(response, 400)
    assert (error["param"], error["code"]) == ("input.[0].namespace", "unsupported_parameter")


def test_tools_are_told_to_the_model_unless_none_may_be_called(server):
    def count(**fields: object) -> int:
        asked = body(server, tool_choice="auto", max_output_tokens=1) | fields
        return post(server, RESPONSES, **asked).json()["usage"]["input_tokens"]

    assert count() > count(tools=None) + 50
    assert count(tool_choice="none") == count(tools=None)


def test_what_a_model_writes_by_itself_is_text_and_a_call(reciting_model):
    settings = create_settings(
        model_name=str(reciting_model(WROTE)),
        chat_template=RECITING_TEMPLATE,
        tool_call_format="hermes",
    )
    with serve_app(create_app(settings)) as server:
        fields = {"tool_choice": "auto", "tools": TOOLS[1:], "max_output_tokens": 120}
        text, call = ask(server, **fields)["output"]
        assert (text["type"], text["content"][0]["text"]) == ("message", "See <tool: ")
        assert (call["type"], call["name"], call["arguments"]) == ("function_call", "clock", "{}")
        assert text["status"] == call["status"] == "completed"


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
def test_what_is_wrong_is_named(server, fields, param, code):
    error = error_of(post(server, RESPONSES, **body(server, **fields)), 400)
    assert (error["param"], error["code"]) == (param, code)


def test_a_model_that_calls_no_tools_says_so(start_server):
    server = start_server(chat_template=PLAIN_TEMPLATE)
    calling = {"input": [QUESTION, CALL, RESULT], "tools": None, "tool_choice": None}
    for fields, param in (({}, "tools"), (calling, "input")):
        error = error_of(post(server, RESPONSES, **body(server, **fields)), 400)
        assert error["param"] == param
        assert "CHAT_TEMPLATE" in error["message"]
