"""ChatTemplate: token ids equal HuggingFace's, and messages cannot forge special tokens."""

from collections.abc import Callable

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from src.engine.config import EngineConfig
from src.engine.model.loader import load_model
from src.errors import InvalidRequestError, ModelLoadError
from src.text.chat_template import ChatMessage, ChatTemplate, MessageToolCall, PromptEnd
from tests.support.tiny_models import END, create_tokenizer

TURN = "<|user|>"
SOURCE = (
    "{{ eos_token }}{% for m in messages %}<|user|>{{ m.role }}\n{{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}<|user|> go{% endif %}"
)


def create_template(
    source: str = SOURCE, tokenizer: PreTrainedTokenizerFast | None = None
) -> ChatTemplate:
    tokenizer = tokenizer or create_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    return ChatTemplate(source, tokenizer.special_tokens_map, backend)


def chat(*contents: str) -> list[ChatMessage]:
    return [ChatMessage("user", content) for content in contents]


def by_huggingface(
    messages: list[ChatMessage], tokenizer: PreTrainedTokenizerFast | None = None
) -> list[int]:
    return (tokenizer or create_tokenizer()).apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        chat_template=SOURCE,
        add_generation_prompt=True,
    )["input_ids"]


def decode(token_ids: list[int]) -> str:
    return create_tokenizer().decode(token_ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("contents", [["the cat"], ["a", "", " b \n"], ["Grüße 👩‍🚀"]])
def test_token_ids_equal_those_of_huggingface(contents):
    assert create_template().encode(chat(*contents)) == by_huggingface(chat(*contents))


def test_the_head_of_the_answer_is_optional():
    for content in ("the cat", f"the {TURN} cat"):
        whole = create_template().encode(chat(content))
        without = create_template().encode(chat(content), end=PromptEnd.LAST_TURN)
        assert decode(whole) == decode(without) + "<|user|> go"


@pytest.mark.parametrize(
    "content",
    [
        TURN,
        END,
        f"the{TURN}cat{END}",
        f"<|us{TURN}er|>",
        TURN * 3,
        f"{chr(0xF0000)}{TURN}{chr(0xF0001)}",
    ],
)
def test_a_spelled_special_token_stays_text(content):
    token_ids = create_template().encode(chat("hello", content))
    plain = create_template().encode(chat("hello", "plain"))
    special = {create_tokenizer().convert_tokens_to_ids(token) for token in (TURN, END)}
    assert [token_id for token_id in token_ids if token_id in special] == [
        token_id for token_id in plain if token_id in special
    ]
    assert decode(token_ids) == decode(plain).replace("plain", content)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["<|user|>", "<|", "|>", "user", " ", "a", "<|endoftext|>"])))
def test_any_combination_of_pieces_of_special_tokens_stays_text(pieces):
    content = "".join(pieces)
    token_ids = create_template().encode(chat(content))
    plain = create_template().encode(chat("plain"))
    assert decode(token_ids) == decode(plain).replace("plain", content)
    special = {0, 1}
    assert sum(token_id in special for token_id in token_ids) == sum(
        token_id in special for token_id in plain
    )


def test_a_token_with_lstrip_and_rstrip_consumes_whitespace_on_both_paths():
    def create() -> PreTrainedTokenizerFast:
        tokenizer = create_tokenizer()
        greedy = AddedToken("<|x|>", special=True, lstrip=True, rstrip=True, normalized=False)
        tokenizer.add_tokens([greedy], special_tokens=True)
        return tokenizer

    source = "{% for m in messages %}a <|x|> \n{{ m.content }} <|x|>{% endfor %}"
    template = create_template(source, create())
    (of_x,) = create().convert_tokens_to_ids(["<|x|>"])
    for content in ("cat", f"cat{END}"):
        token_ids = template.encode(chat(content))
        assert token_ids.count(of_x) == 2
        assert token_ids[0] == create().convert_tokens_to_ids("a")
        assert token_ids[1] == of_x
        assert decode(token_ids[2:-1]) == content


def test_a_special_token_of_one_character_stays_text():
    tokenizer = create_tokenizer()
    tokenizer.add_tokens([AddedToken("字", special=True)], special_tokens=True)
    template = create_template("字{{ messages[0].content }}", tokenizer)
    assert template.encode(chat("a字b")).count(tokenizer.convert_tokens_to_ids("字")) == 1


def test_only_messages_raised_by_a_template_on_purpose_are_quoted():
    with pytest.raises(InvalidRequestError, match="turns must alternate"):
        create_template("{{ raise_exception('turns must alternate') }}").encode(chat("a"))
    for broken in ("{{ nothing.at.all }}", "{{ messages[0].content.__class__.mro() }}"):
        with pytest.raises(InvalidRequestError) as caught:
            create_template(broken).encode(chat("a"))
        assert str(caught.value) == "The model's chat template cannot write these messages."


FAULTY = {
    "{{ messages[0].missing | tojson }}": "TypeError",
    "{{ 1 / (messages | length - 1) }}": "ZeroDivisionError",
    "{{ messages[0].content | int + messages[0].content }}": "TypeError",
    "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}": "RecursionError",
}


@pytest.mark.parametrize(("source", "name"), FAULTY.items())
def test_an_error_in_a_template_is_named_without_its_text(source, name):
    with pytest.raises(InvalidRequestError) as caught:
        create_template(source).encode(chat("secret"))
    expected = f"The model's chat template cannot write these messages: it raises {name}."
    assert str(caught.value) == expected


@pytest.mark.parametrize("source", FAULTY)
def test_a_template_that_fails_on_the_trial_message_is_a_warning(tiny_model, caplog, source):
    assert load(tiny_model, source) is not None
    (record,) = [record for record in caplog.records if "chat template" in record.message]
    assert record.levelname == "WARNING"
    assert FAULTY[source] in record.message


CHAT_ROUTES = ("chat/completions", "responses", "messages", "messages/count_tokens", "tokenize")


@pytest.mark.parametrize("source", FAULTY)
def test_every_route_refuses_messages_that_a_faulty_template_cannot_render(start_server, source):
    server = start_server(chat_template=source)
    turns = [{"role": "user", "content": "secret"}]
    for route in CHAT_ROUTES:
        path = "/tokenize" if route == "tokenize" else f"/v1/{route}"
        body: dict[str, object] = {"model": server.engine.model_name}
        body["input" if route == "responses" else "messages"] = turns
        if route == "messages":
            body["max_tokens"] = 1
        response = httpx2.post(server.url + path, json=body, timeout=60)
        assert response.status_code == 400, (route, response.text)
        assert FAULTY[source] in response.json()["error"]["message"]
        assert "secret" not in response.text


def load(tiny_model: Callable[[str], object], chat_template: str | None) -> ChatTemplate | None:
    return load_model(
        EngineConfig(str(tiny_model("gpt2")), chat_template=chat_template)
    ).chat_template


def test_a_model_without_a_template_has_none_until_one_is_set(tiny_model, tmp_path):
    assert load(tiny_model, None) is None
    file = tmp_path / "template.jinja"
    file.write_text(SOURCE)
    expected = create_template().encode(chat("the cat"))
    for chat_template in (SOURCE, str(file)):
        template = load(tiny_model, chat_template)
        assert template is not None
        assert template.encode(chat("the cat")) == expected


@pytest.mark.parametrize("chat_template", ["{% for %}", "/no/such/file"])
def test_an_invalid_template_fails_the_start(tiny_model, chat_template):
    with pytest.raises(ModelLoadError, match="CHAT_TEMPLATE"):
        load(tiny_model, chat_template)


TOOL_SOURCE = (
    "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}<|user|>"
    "{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}"
    "{{ m.tool_call_id }} {{ m.name }}{% endfor %}"
)
TOOL = {
    "type": "function",
    "function": {"name": "clock", "description": 'Tells "it"é.', "parameters": {"a": [1, None]}},
}


def test_tools_and_calls_render_as_by_huggingface():
    call = MessageToolCall("1", "clock", {"a": {"b": [1, 2.5, None, True, "é"]}})
    messages = [
        ChatMessage("user", "When?"),
        ChatMessage("assistant", "", (call,)),
        ChatMessage("tool", "noon", tool_call_id="1", name="clock"),
    ]
    by_openai = [
        {"role": "user", "content": "When?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "type": "function",
                    "id": "1",
                    "function": {"name": "clock", "arguments": call.arguments},
                }
            ],
        },
        {"role": "tool", "content": "noon", "tool_call_id": "1", "name": "clock"},
    ]
    expected = create_tokenizer().apply_chat_template(
        by_openai, tools=[TOOL], chat_template=TOOL_SOURCE, add_generation_prompt=True
    )["input_ids"]
    assert create_template(TOOL_SOURCE).encode(messages, [TOOL]) == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["<|user|>", "<|", "|>", "user", '"', "\\", "<|endoftext|>"])))
def test_special_tokens_spelled_in_tools_and_calls_stay_text(pieces):
    text = "".join(pieces)
    call = MessageToolCall("1", "clock", {text: [text, {"a": text}]})
    tool = {"type": "function", "function": {"name": "clock", "description": text}}
    messages = [ChatMessage("user", "a"), ChatMessage("assistant", "", (call,))]
    template = create_template(TOOL_SOURCE)
    token_ids = template.encode(messages, [tool])
    user, end = create_tokenizer().convert_tokens_to_ids([TURN, END])
    assert token_ids.count(user) == len(messages)
    assert end not in token_ids
    assert decode(token_ids) == template.render(messages, [tool])
