"""Thoughts in all three chat APIs: a model recites them, whole, streamed and through clients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.chat_apis import CHAT_APIS, Answer, Call, ChatApi, Tool, Turn
from tests.support.servers import LocalServer, serve_app
from tests.support.tiny_models import END, create_tokenizer
from tests.support.tools import LEVELS_TEMPLATE, OPEN_TEMPLATE, THINKING_TEMPLATE
from tests.support.wire import post, recorded_prompts

TAGS = ("<think>", "</think>")
THOUGHT, CONTENT = "the cat {1}", "It sat."
RECITED = f"<think>\n{THOUGHT}\n</think>\n\n{CONTENT}{END}"
SHAPED = f'<think>{THOUGHT}</think>{{"a": 1}}{END}'
CALLED = '<think>I call</think><tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>' + END
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CLOCK = Tool("clock")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=CHAT_APIS, ids=str)
def api(request: pytest.FixtureRequest) -> ChatApi:
    return request.param


@contextmanager
def reciting(folder: object, **settings: object) -> Iterator[LocalServer]:
    defaults = {"model_name": str(folder), "chat_template": THINKING_TEMPLATE}
    with serve_app(create_app(create_settings(**(defaults | settings)))) as server:
        yield server
        wait_until(lambda: server.engine.num_live == 0)


@pytest.fixture(scope="module", params=[TAGS, ()], ids=["special", "spelled"])
def tags(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Tags that are special tokens of the model; others are spelled in several tokens."""
    return request.param


@pytest.fixture(scope="module")
def server(tags: tuple[str, ...], reciting_model: Callable) -> Iterator[LocalServer]:
    with reciting(reciting_model(RECITED, *tags)) as server:
        yield server


@pytest.fixture(scope="module")
def shaped(tags: tuple[str, ...], reciting_model: Callable) -> Iterator[LocalServer]:
    with reciting(reciting_model(SHAPED, *tags)) as server:
        yield server


def tokens(text: str, *special: str) -> list[str]:
    tokenizer = create_tokenizer(*special)
    return [tokenizer.decode([token_id]) for token_id in tokenizer(text)["input_ids"]]


def both(api: ChatApi, server: LocalServer, **asked: object) -> Answer:
    """Asks for a whole answer and for a stream, which must be equal."""
    whole = api.ask(server, **{"max_tokens": 100} | asked)
    assert api.stream(server, **{"max_tokens": 100} | asked) == whole
    return whole


def with_schema(api: ChatApi) -> dict[str, object]:
    """Fields that ask for JSON by SCHEMA."""
    named = {"name": "a", "schema": SCHEMA}
    fields = {
        "/v1/chat/completions": {
            "response_format": {"type": "json_schema", "json_schema": named},
        },
        "/v1/responses": {"text": {"format": {"type": "json_schema"} | named}},
        "/v1/messages": {
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        },
    }
    return fields[api.path]


def test_the_thought_is_apart_from_the_content(api, server, tags):
    answer = both(api, server)
    assert (answer.thought, answer.text, answer.is_cut) == (THOUGHT, CONTENT, False)
    head = RECITED.partition(CONTENT)[0]
    assert answer.num_thought_tokens == len(tokens(head, *tags))
    assert answer.num_output_tokens == len(tokens(RECITED, *tags))


def test_the_stream_helper_of_the_client_assembles_the_thought(api, server):
    answer = api.stream_by_client(server, api.body(server, max_tokens=100))
    assert answer == api.ask(server, max_tokens=100)
    assert answer.thought == THOUGHT


def test_an_answer_cut_in_its_thought_has_no_content(api, server, tags):
    num_tokens = len(tokens("<think>\nthe", *tags))
    answer = both(api, server, max_tokens=num_tokens)
    assert (answer.thought, answer.text, answer.is_cut) == ("the", "", True)
    assert answer.num_thought_tokens == answer.num_output_tokens == num_tokens


def test_a_request_turns_thinking_off(api, server):
    answer = both(api, server, **api.thinking(is_enabled=False))
    assert (answer.thought, answer.num_thought_tokens) == ("", 0)
    assert answer.text


def test_a_setting_turns_thinking_off_and_a_request_on_again(api, reciting_model):
    with reciting(reciting_model(RECITED, *TAGS), enable_thinking=False) as server:
        assert not both(api, server).thought
        assert both(api, server, **api.thinking(is_enabled=True)).thought == THOUGHT


def test_a_setting_leaves_the_thought_in_the_text(api, reciting_model):
    with reciting(reciting_model(RECITED), reasoning_format="none") as server:
        answer = both(api, server)
    assert (answer.thought, answer.text) == ("", RECITED.removesuffix(END))


def test_the_prompt_may_open_the_thought(api, reciting_model):
    folder = reciting_model("sum</think>answer" + END, *TAGS)
    with reciting(folder, chat_template=OPEN_TEMPLATE) as server:
        answer = both(api, server)
        assert (answer.thought, answer.text) == ("sum", "answer")
        # Without a switch in the template, the thought ends at once: "\n</think>" is forced.
        answer = both(api, server, **api.thinking(is_enabled=False))
        expected = "".join(tokens("sum</think>answer", *TAGS)[2:])
        assert (answer.thought, answer.text) == ("", expected)


@pytest.mark.parametrize("engine", ["continuous", "reference"])
def test_a_budget_ends_the_thought(reciting_model, engine):
    chat, _, messages = CHAT_APIS
    budgets = [
        (chat, {"thinking_token_budget": 3}),
        (chat, {"thinking_budget": 3}),
        (messages, {"thinking": {"type": "enabled", "budget_tokens": 3}}),
    ]
    recited = f"<think>the cat sat</think>{CONTENT}{END}"
    pieces = tokens(recited, *TAGS)
    forced = tokens("\n</think>", *TAGS)
    rest = "".join(pieces[4 + len(forced) :]).removesuffix(END)
    with reciting(reciting_model(recited, *TAGS), engine=engine) as server:
        for api, fields in budgets:
            answer = both(api, server, **fields)
            assert answer.thought == "".join(pieces[1:4]).strip()
            assert answer.text == rest.lstrip()
            assert answer.num_thought_tokens >= 4 + len(forced)
        answer = both(chat, server, thinking_token_budget=100)
        assert (answer.thought, answer.text) == ("the cat sat", CONTENT)


def test_a_grammar_begins_after_the_thought(api, shaped):
    answer = both(api, shaped, **with_schema(api), **api.thinking(is_enabled=True))
    assert (answer.thought, answer.text, answer.is_cut) == (THOUGHT, '{"a": 1}', False)


def test_a_model_may_think_unasked_before_a_grammar(api, reciting_model):
    for engine in ("continuous", "reference"):
        with reciting(reciting_model(SHAPED, *TAGS), engine=engine) as server:
            answer = both(api, server, **with_schema(api))
            assert (answer.thought, answer.text) == (THOUGHT, '{"a": 1}')


def test_a_grammar_begins_at_once_when_thinking_is_off(api, reciting_model):
    with reciting(reciting_model('x{"a": 1}' + END, *TAGS)) as server:
        answer = both(api, server, **with_schema(api), **api.thinking(is_enabled=False))
        assert (answer.thought, answer.text) == ("", '{"a": 1}')


def test_a_call_after_a_thought_is_read(api, reciting_model):
    folder = reciting_model(CALLED, *TAGS)
    with reciting(folder, tool_call_format="hermes") as server:
        for choice in ("auto", "required"):
            answer = both(api, server, tools=[CLOCK], choice=choice)
            assert (answer.thought, answer.text) == ("I call", "")
            assert answer.calls == [Call("clock", {})]


def test_stop_texts_are_of_the_content(reciting_model):
    chat, _, messages = CHAT_APIS
    text = f"<think>the cat</think>a hat, the cat{END}"
    with reciting(reciting_model(text)) as server:
        for api, name in ((chat, "stop"), (messages, "stop_sequences")):
            answer = both(api, server, **{name: ["the"]})
            assert (answer.thought, answer.text) == ("the cat", "a hat, ")


def test_logprobs_are_of_the_content(server, tags):
    chat = CHAT_APIS[0]
    body = chat.body(server, max_tokens=100, logprobs=True)
    (choice,) = post(server, chat.path, **body).json()["choices"]
    content = [position["token"] for position in choice["logprobs"]["content"]]
    assert "".join(content) == CONTENT + END
    responses = CHAT_APIS[1]
    fields = {"include": ["message.output_text.logprobs", "reasoning.encrypted_content"]}
    body = responses.body(server, max_tokens=100, **fields)
    *_, message = post(server, responses.path, **body).json()["output"]
    positions = message["content"][0]["logprobs"]
    assert "".join(position["token"] for position in positions) == CONTENT + END


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("both", {"reasoning_content", "reasoning"}),
        ("reasoning_content", {"reasoning_content"}),
        ("reasoning", {"reasoning"}),
        ("none", set()),
    ],
)
def test_a_setting_names_the_fields_of_the_thought(reciting_model, setting, names):
    chat = CHAT_APIS[0]
    with reciting(reciting_model(RECITED, *TAGS), reasoning_field=setting) as server:
        answer = post(server, chat.path, **chat.body(server, max_tokens=100)).json()
        stream = post(server, chat.path, **chat.body(server, max_tokens=100, stream=True)).text
    message = answer["choices"][0]["message"]
    assert message.keys() - {"role", "content", "refusal"} == names
    for name in ("reasoning_content", "reasoning"):
        assert (f'"{name}"' in stream) == (name in names)


def prompt_of(api: ChatApi, server: LocalServer, **asked: object) -> str:
    with recorded_prompts(server) as prompts:
        api.ask(server, max_tokens=1, **asked)
    return server.engine.codec.tokenizer.decode(prompts[0])


def test_thoughts_of_earlier_turns_are_handed_to_the_template(api, start_server):
    server = start_server(chat_template=LEVELS_TEMPLATE)
    answered = Turn("assistant", "noon", thought="old")
    turns = [Turn("user", "a"), answered, Turn("user", "b")]
    prompt = prompt_of(api, server, turns=turns)
    assert prompt == "user:a\nassistant:<think>old</think>noon\nuser:b\n"


def test_thoughts_of_earlier_calls_are_handed_to_the_template(api, start_server, roomy_model):
    template = LEVELS_TEMPLATE + "{{ tools | tojson if tools }}"
    settings = {"chat_template": template, "tool_call_format": "hermes"}
    server = start_server(model_name=str(roomy_model), **settings)
    calling = Turn("assistant", calls=[Call("clock", {})], thought="old")
    turns = [Turn("user", "a"), calling, Turn("user", results={"call_1": "noon"})]
    assert "assistant:<think>old</think>" in prompt_of(api, server, turns=turns, tools=[CLOCK])


def test_the_other_spelling_of_the_thought_is_accepted_too(start_server):
    server, chat = start_server(chat_template=LEVELS_TEMPLATE), CHAT_APIS[0]
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "reasoning": "old"},
        {"role": "user", "content": "b"},
    ]
    prompt = prompt_of(chat, server, messages=messages)
    assert prompt == "user:a\nassistant:<think>old</think>\nuser:b\n"


def test_the_effort_and_other_variables_reach_the_template(start_server):
    server = start_server(chat_template=LEVELS_TEMPLATE)
    chat, responses, messages = CHAT_APIS
    asked = [
        (chat, {"reasoning_effort": "high"}),
        (chat, {"chat_template_kwargs": {"reasoning_effort": "high", "enable_thinking": True}}),
        (responses, {"reasoning": {"effort": "high"}}),
        (messages, {"output_config": {"effort": "high"}}),
    ]
    for api, fields in asked:
        assert prompt_of(api, server, **fields).endswith("\nhigh")
    for fields in (
        {"reasoning_effort": "none"},
        {"enable_thinking": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ):
        assert prompt_of(chat, server, **fields).endswith("<think></think>")


def test_a_variable_cannot_spell_a_special_token(start_server):
    server, chat = start_server(chat_template=LEVELS_TEMPLATE), CHAT_APIS[0]
    with recorded_prompts(server) as prompts:
        variables = {"reasoning_effort": END}
        chat.ask(server, max_tokens=1, chat_template_kwargs=variables)
    assert server.engine.codec.special_token_id(END) not in prompts[0]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"chat_template_kwargs": {"surprise": 1}}, "chat_template_kwargs.surprise"),
        ({"chat_template_kwargs": {"messages": "a"}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"reasoning_effort": ["a"]}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"enable_thinking": 1}}, "chat_template_kwargs.enable_thinking"),
        ({"enable_thinking": True, "reasoning_effort": "none"}, "reasoning_effort"),
        ({"reasoning_effort": "some"}, "reasoning_effort"),
        ({"thinking_budget": 1, "thinking_token_budget": 2}, "thinking_budget"),
        (
            {"messages": [{"role": "user", "content": "a", "reasoning": "b"}]},
            "messages.0.reasoning",
        ),
    ],
)
def test_wrong_choices_are_refused_by_name(start_server, fields, place):
    server = start_server(chat_template=LEVELS_TEMPLATE)
    refusal = CHAT_APIS[0].refuse(server, **fields)
    assert (refusal.status, refusal.place) == (400, place)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"enable_thinking": True}, "enable_thinking"),
        ({"thinking_token_budget": 5}, "thinking_token_budget"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"reasoning_effort": "low"}}, None),
        ({"enable_thinking": False}, ""),
        ({"reasoning_effort": "high"}, ""),
    ],
)
def test_a_model_that_cannot_think_refuses_what_insists_on_it(client, fields, place):
    body = {"model": "storyteller", "messages": [{"role": "user", "content": "Hi"}]}
    response = client.post("/v1/chat/completions", json=body | {"max_tokens": 2} | fields)
    if place == "":
        assert response.status_code == 200, response.text
        return
    assert response.status_code == 400
    name = "chat_template_kwargs.reasoning_effort" if place is None else place
    assert response.json()["error"]["param"] == name


def test_thinking_of_agents_has_no_effect_on_a_model_that_cannot(client):
    body = {"model": "storyteller", "messages": [{"role": "user", "content": "Hi"}]}
    fields = {"max_tokens": 2, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    answer = client.post("/v1/messages", json=body | fields).json()
    assert [block["type"] for block in answer["content"]] == ["text"]
    fields = {"reasoning": {"effort": "high", "summary": "auto"}, "max_output_tokens": 2}
    answer = client.post("/v1/responses", json={"model": "storyteller", "input": "Hi"} | fields)
    assert answer.json()["reasoning"] == {"effort": "high", "summary": "auto"}


def test_the_text_of_a_thought_can_be_left_out(server):
    messages = CHAT_APIS[2]
    fields = {"thinking": {"type": "adaptive", "display": "omitted"}}
    for answer in (
        messages.ask(server, max_tokens=100, **fields),
        messages.stream(server, max_tokens=100, **fields),
    ):
        assert (answer.thought, answer.text) == ("", CONTENT)
        assert answer.num_thought_tokens


def test_tokenize_takes_variables_of_the_template(start_server):
    server = start_server(chat_template=LEVELS_TEMPLATE)
    body = {"messages": [{"role": "user", "content": "a"}], "return_token_strs": True}
    variables = {"enable_thinking": False}
    answer = post(server, "/tokenize", **body, chat_template_kwargs=variables).json()
    assert "".join(answer["token_strs"]).endswith("<think></think>")
    refused = post(server, "/tokenize", prompt="a", chat_template_kwargs=variables).json()
    assert refused["error"]["param"] == "chat_template_kwargs"
