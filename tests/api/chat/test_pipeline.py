"""The chat pipeline, with a wire model of no API: errors name that model's fields."""

import asyncio
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from starlette.requests import Request
from starlette.types import Message

from src.api.chat.pipeline import PreparedChat, prepare_chat
from src.api.chat.request import AnswerOptions
from src.api.chat.thinking import ThinkingOptions
from src.engine.structured_output.source import GrammarSource, schema_source
from src.errors import ContextLengthError, InvalidRequestError, ModelNotFoundError
from src.text.chat_template import ChatMessage, PromptEnd
from src.text.tokenization import TextCodec
from src.tool_calling.choice import choose
from src.tool_calling.grammar import Tool, ToolChoice
from src.tool_calling.parser import TextReader, ToolCallParser

WEATHER = Tool("weather", "Weather of a city.", {"type": "object"}, ("functions", 0, "input"))


@dataclass
class WireModel:
    """The least that a fourth API needs."""

    conversation_field: ClassVar[str] = "turns"

    text: str = "Hello"
    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] | None = None
    logit_bias: dict[int, float] | None = None
    options: AnswerOptions = field(default_factory=lambda: AnswerOptions(None, "length"))
    schema: GrammarSource | None = None
    tool_choice: ToolChoice | None = None

    def check(self) -> None:
        if self.text == "contradiction":
            raise InvalidRequestError("Fields contradict each other.", ("text",))

    def to_conversation(self) -> list[ChatMessage]:
        return [ChatMessage("user", self.text)]

    def to_tool_choice(self) -> ToolChoice | None:
        return self.tool_choice

    def prompt_end(self) -> PromptEnd:
        return PromptEnd.ANSWER_HEAD

    def thinking_options(self) -> ThinkingOptions:
        return ThinkingOptions()

    def answer_schema(self) -> GrammarSource | None:
        return self.schema

    def answer_options(self) -> AnswerOptions:
        return self.options


@pytest.fixture
def prepare(client):
    engine = client.app.state.service.engine

    async def receive() -> Message:
        await asyncio.Event().wait()  # the client stays
        raise AssertionError

    def run(**fields: object) -> PreparedChat:
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        return asyncio.run(prepare_chat(request, WireModel(**fields), engine))

    return run


def test_fills_in_what_the_request_leaves_out(prepare):
    chat = prepare(seed=5)
    room = chat.engine.max_model_len - chat.num_prompt_tokens
    params = chat.params
    assert (params.max_tokens, params.seed) == (room, 5)
    assert (params.temperature, params.top_p, params.top_k) == (0.7, 0.9, 0)  # the model's
    assert (params.min_tokens, params.grammar, chat.num_choices) == (0, None, 1)


def test_passes_the_options_on(prepare):
    options = AnswerOptions(7, "length", min_tokens=3, num_choices=2, num_logprobs=4)
    chat = prepare(options=options, temperature=0.5, top_p=0.25)
    params = chat.params
    assert (params.max_tokens, params.min_tokens, params.logprobs) == (7, 3, 4)
    assert (params.temperature, params.top_p, chat.num_choices) == (0.5, 0.25, 2)


def test_too_many_new_tokens_are_refused_by_the_name_of_the_request(prepare):
    with pytest.raises(ContextLengthError) as caught:
        prepare(options=AnswerOptions(10**6, "length"))
    assert caught.value.field == ("length",)


def test_new_tokens_end_at_the_context_if_the_api_says_so(prepare):
    chat = prepare(options=AnswerOptions(10**6, "length", ends_at_context=True))
    assert chat.num_prompt_tokens + chat.params.max_tokens == chat.engine.max_model_len


@pytest.mark.parametrize("ends_at_context", [False, True])
def test_a_long_conversation_is_refused_by_the_name_of_the_request(prepare, ends_at_context):
    options = AnswerOptions(None, "length", ends_at_context)
    with pytest.raises(ContextLengthError) as caught:
        prepare(text="word " * 2000, options=options)
    assert caught.value.field == ("turns",)


def test_a_minimum_above_the_maximum_names_both_fields(prepare):
    with pytest.raises(InvalidRequestError, match="length allows 2: lower min_tokens"):
        prepare(options=AnswerOptions(2, "length", min_tokens=3))


def test_a_minimum_above_what_the_prompt_leaves_is_refused(prepare):
    with pytest.raises(InvalidRequestError, match=r"length allows \d+: lower min_tokens"):
        prepare(options=AnswerOptions(None, "length", min_tokens=1020), text="word " * 100)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"options": AnswerOptions(2, "length", min_tokens=3)}, "min_tokens"),
        ({"logit_bias": {10**6: 1.0}}, "logit_bias"),
        ({"stop": ["x" * 200]}, "stop"),
        ({"stop": ["x"], "schema": schema_source({}, ("format",))}, "stop"),
        ({"options": AnswerOptions(2, "length", num_choices=10**4)}, "n"),
    ],
)
def test_invalid_fields_are_refused_before_tokenization(prepare, monkeypatch, fields, field):
    def encode(*_: object) -> None:
        raise AssertionError("the prompt must not be tokenized")

    monkeypatch.setattr(TextCodec, "encode_chat", encode)
    with pytest.raises(InvalidRequestError) as caught:
        prepare(**fields)
    assert caught.value.field == (field,)


def test_an_unknown_model_and_contradicting_fields_are_refused(prepare):
    with pytest.raises(ModelNotFoundError):
        prepare(model="other")
    with pytest.raises(InvalidRequestError, match="contradict"):
        prepare(text="contradiction")


def test_the_reader_follows_tools_and_format(prepare):
    text = prepare()
    assert isinstance(text.create_reader(), TextReader)
    assert not text.must_call
    shaped = prepare(schema=schema_source({"type": "object"}, ("format",)))
    assert isinstance(shaped.create_reader(), TextReader)
    assert shaped.params.grammar is not None
    forced = prepare(tool_choice=choose([WEATHER], "required", is_parallel=True))
    assert isinstance(forced.create_reader(), ToolCallParser)
    assert forced.must_call
    assert forced.params.grammar is not None
