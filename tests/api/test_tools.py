"""Tools in all three chat APIs: a random model calls them by the rules, whole and streamed."""

import pytest

from src.main import create_app
from tests.conftest import create_settings
from tests.support.chat_apis import CHAT_APIS, Answer, Call, ChatApi, Tool, Turn
from tests.support.servers import LocalServer, serve_app
from tests.support.tools import RECITING_TEMPLATE, WEATHER, WROTE, assert_fits
from tests.support.wire import PLAIN_TEMPLATE

CLOCK = Tool("clock")
TOOLS = [Tool("weather", WEATHER), CLOCK]
QUESTION = Turn("user", "How is it?")
CALLING = Turn("assistant", calls=[Call("clock", {})])
RESULT = Turn("user", results={"call_1": "noon"})

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def server(tool_server: LocalServer) -> LocalServer:
    return tool_server


@pytest.fixture(params=CHAT_APIS, ids=str)
def api(request: pytest.FixtureRequest) -> ChatApi:
    return request.param


def ask(api: ChatApi, server: LocalServer, **asked: object) -> Answer:
    answer = api.ask(server, **{"tools": TOOLS, "choice": "required"} | asked)
    if not answer.is_cut:
        for call in answer.calls:
            assert_fits(call.name, call.arguments)
    assert len({call.call_id for call in answer.calls}) == len(answer.calls)
    return answer


def test_a_required_call_has_arguments_that_fit(api, server):
    for temperature in (0, 1, 1, 1):
        # At random, a series of calls may have no end.
        answer = ask(api, server, temperature=temperature, is_parallel=temperature == 0)
        assert answer.calls
        assert not answer.text
        assert not answer.is_cut


def test_a_named_tool_is_called_once(api, server):
    assert ask(api, server, choice=CLOCK, temperature=1).calls == [Call("clock", {})]


def test_parallel_calls_can_be_switched_off(api, server):
    for _ in range(4):
        assert len(ask(api, server, is_parallel=False, temperature=1).calls) == 1


def test_a_call_cut_by_max_tokens_says_so(api, server):
    asked = {"tools": TOOLS, "choice": TOOLS[0], "max_tokens": 45}
    for answer in (api.ask(server, **asked), api.stream(server, **asked)):
        assert answer.is_cut
        assert [call.name for call in answer.calls] == ["weather"]


@pytest.mark.parametrize(("choice", "max_tokens"), [("auto", 60), ("required", 400)])
def test_a_stream_equals_the_whole_answer(api, server, choice, max_tokens):
    asked = {"tools": TOOLS, "choice": choice, "max_tokens": max_tokens}
    assert api.stream(server, **asked) == api.ask(server, **asked)


def test_the_stream_helper_of_the_client_assembles_calls(api, server):
    body = api.body(server, tools=TOOLS, choice="required")
    assert api.stream_by_client(server, body) == ask(api, server)


def test_a_conversation_continues_after_a_call(api, server):
    (call,) = ask(api, server, is_parallel=False).calls
    turns = [
        QUESTION,
        Turn("assistant", calls=[call]),
        Turn("user", results={call.call_id: "4"}),
    ]
    assert ask(api, server, turns=turns, choice="auto", max_tokens=5).text
    said = Turn("assistant", "Let me see.", calls=[Call("clock", {})])
    ask(api, server, turns=[QUESTION, said, RESULT], choice="auto", max_tokens=5)


def test_tools_are_in_the_prompt_unless_the_choice_is_none(api, server):
    def count(**asked: object) -> int:
        return api.ask(server, **asked, max_tokens=1).num_prompt_tokens

    without = count()
    assert count(tools=TOOLS, choice="auto") > without + 50
    assert count(tools=TOOLS, choice="none") == without
    assert count(tools=TOOLS, choice=CLOCK) == count(tools=TOOLS)


def test_a_call_that_the_model_writes_unasked_is_read(api, reciting_model):
    settings = create_settings(
        model_name=str(reciting_model(WROTE)),
        chat_template=RECITING_TEMPLATE,
        tool_call_format="hermes",
    )
    with serve_app(create_app(settings)) as server:
        asked = {"tools": [CLOCK], "choice": "auto", "max_tokens": 120}
        for answer in (api.ask(server, **asked), api.stream(server, **asked)):
            assert (answer.text, answer.calls) == ("See <tool: ", [Call("clock", {})])


DEFINITIONS = {
    "/v1/chat/completions": ("tools.{}.function.", "parameters"),
    "/v1/responses": ("tools.{}.", "parameters"),
    "/v1/messages": ("tools.{}.", "input_schema"),
}
"""Path of a tool's definition in each API, and the name of its schema."""


@pytest.mark.parametrize(
    ("tools", "index", "place"),
    [
        ([Tool("a b")], 0, "name"),
        ([CLOCK, CLOCK], 1, "name"),
        ([CLOCK, Tool("a", {"type": "array"})], 1, "{schema}.type"),
        ([Tool("a", {"properties": {"b": {"not": {}}}})], 0, "{schema}.properties.b"),
    ],
)
def test_a_wrong_definition_is_refused_by_its_place(api, server, tools, index, place):
    folder, schema = DEFINITIONS[api.path]
    refusal = api.refuse(server, tools=tools)
    assert refusal.status == 400
    assert refusal.place == folder.format(index) + place.format(schema=schema)


@pytest.mark.parametrize("choice", ["required", CLOCK])
def test_a_choice_without_tools_is_refused(api, server, choice):
    refusal = api.refuse(server, choice=choice)
    assert (refusal.status, refusal.place.split(".")[0]) == (400, "tool_choice")


@pytest.mark.parametrize("choice", ["some", Tool("other")])
def test_a_choice_that_does_not_exist_is_refused(api, server, choice):
    refusal = api.refuse(server, tools=TOOLS, choice=choice)
    assert (refusal.status, refusal.place.split(".")[0]) == (400, "tool_choice")


@pytest.mark.parametrize(
    "turns",
    [
        [QUESTION, CALLING],
        [QUESTION, CALLING, QUESTION],
        [QUESTION, RESULT],
        [QUESTION, CALLING, Turn("user", results={"other": "noon"})],
        [QUESTION, Turn("assistant", calls=[Call("clock", {}), Call("clock", {})]), RESULT],
        [QUESTION, Turn("assistant", calls=[Call("clock", [])]), RESULT],
    ],
)
def test_calls_and_results_that_do_not_match_are_refused(api, server, turns):
    refusal = api.refuse(server, tools=TOOLS, turns=turns)
    assert (refusal.status, refusal.place.split(".")[0]) == (400, api.turns)


def test_a_template_that_lists_no_tools_refuses_them_and_names_the_setting(api, start_server):
    server = start_server(chat_template="{{ 'Some tools.' if tools }}" + PLAIN_TEMPLATE)
    for asked, place in (
        ({"tools": TOOLS}, "tools"),
        ({"turns": [QUESTION, CALLING, RESULT]}, api.turns),
    ):
        refusal = api.refuse(server, **asked, max_tokens=5)
        assert (refusal.status, refusal.place) == (400, place)
        assert "CHAT_TEMPLATE" in refusal.message
    assert api.ask(server, tools=TOOLS, choice="none", max_tokens=1).num_output_tokens == 1
