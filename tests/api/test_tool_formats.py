"""Tools over HTTP in each format: random models call them by the rules, whole and streamed."""

from collections.abc import Iterator

import pytest

from src.main import create_app
from tests.conftest import create_settings
from tests.support.chat_apis import CHAT_APIS, Call, Tool, Turn
from tests.support.servers import LocalServer, serve_app
from tests.support.tool_formats import TEMPLATES
from tests.support.tools import WEATHER, assert_fits
from tests.support.wire import PLAIN_TEMPLATE, post

SERVED = ("qwen3_coder", "glm47", "mistral_v13", "deepseek_v31", "gemma4", "none")
"""One format of each family that `tool_server` does not serve, and a template without any."""

TOOLS = [Tool("mcp.weather", WEATHER), Tool("clock")]
QUESTION = Turn("user", "How is it?")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=SERVED)
def server(request: pytest.FixtureRequest, one_thread: None, roomy_model) -> Iterator[LocalServer]:
    template = TEMPLATES.get(request.param, PLAIN_TEMPLATE)
    settings = create_settings(model_name=str(roomy_model), chat_template=template, kv_cache_gb=0.1)
    with serve_app(create_app(settings)) as server:
        expected = "hermes" if request.param == "none" else request.param
        assert server.engine.tool_call_format.name == expected
        yield server


def test_calls_fit_and_a_stream_equals_the_whole_answer(server):
    asked = {"tools": TOOLS, "choice": "required", "max_tokens": 300, "is_parallel": False}
    answers = [api.stream(server, **asked) for api in CHAT_APIS]
    assert answers[0] == CHAT_APIS[0].ask(server, **asked)
    for answer in answers:
        assert not answer.text
        assert not answer.is_cut
        (call,) = answer.calls
        assert_fits(call.name.removeprefix("mcp."), call.arguments)


def test_a_stream_has_several_calls(server):
    asked = {"tools": TOOLS[1:], "choice": "required", "max_tokens": 400, "temperature": 1}
    for seed in range(20):  # until a random answer has several
        calls = CHAT_APIS[0].stream(server, **asked, seed=seed).calls
        assert {call.name for call in calls} == {"clock"}
        if len(calls) > 1:
            assert len({call.call_id for call in calls}) == len(calls)
            return
    pytest.fail("no answer has several calls")


def test_a_conversation_goes_on_after_calls(server):
    arguments = {"city": "Rome", "note": "a"}
    calls = [Call("mcp.weather", arguments, "call_1"), Call("clock", {}, "call_2")]
    turns = [
        QUESTION,
        Turn("assistant", calls=calls),
        Turn("user", results={"call_1": "sunny", "call_2": "noon"}),
    ]
    for api in CHAT_APIS:
        answer = api.ask(server, turns=turns, tools=TOOLS, choice="auto", max_tokens=4)
        assert answer.text


def test_the_prompt_describes_tools_and_shows_earlier_calls(server):
    call = {"name": "clock", "arguments": "{}"}
    messages = [
        {"role": "user", "content": "When?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "callid001", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "callid001", "content": "noon"},
    ]
    tools = [{"type": "function", "function": {"name": "clock", "description": "Tells the time."}}]
    told = post(server, "/tokenize", messages=messages, tools=tools).json()
    prompt = post(server, "/detokenize", tokens=told["tokens"]).json()["prompt"]
    assert prompt.count("Tells the time.") == 1
    written = server.engine.tool_call_format.write_calls([("clock", {})])
    assert prompt.replace("callid001", "000000000").count(written) == 1
    assert "noon" in prompt
