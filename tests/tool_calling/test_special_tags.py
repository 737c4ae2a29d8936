"""Tool calls of models with tags that are special tokens."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from src.engine.structured_output.source import DeadEndError, GrammarSource
from src.main import create_app
from src.text.chat_template import ChatTemplate
from src.text.detokenizer import IncrementalDetokenizer
from src.tool_calling.detection import find_format
from src.tool_calling.grammar import Tool, ToolChoice, tool_grammar
from tests.api.openai.test_chat_tools import PLACE, SHAPED, TOOLS, ask, calls_of, chat
from tests.conftest import create_settings
from tests.support.grammars import Grammars, allowed_by, take
from tests.support.servers import LocalServer, serve_app
from tests.support.tiny_models import SHAPE, create_tokenizer
from tests.support.tools import HERMES_TEMPLATE, QUESTION, RECITING_TEMPLATE, WROTE
from tests.support.wire import openai_client, post

TAGS = ("<tool_call>", "</tool_call>")
TOKENIZER = create_tokenizer(*TAGS).backend_tokenizer
BEGIN, END = (TOKENIZER.token_to_id(tag) for tag in TAGS)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server of a random model with such tags."""
    folder: Path = tmp_path_factory.mktemp("tagged")
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", **SHAPE | {"max_position_embeddings": 2048})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    create_tokenizer(*TAGS).save_pretrained(folder)
    settings = create_settings(
        model_name=str(folder), chat_template=HERMES_TEMPLATE, kv_cache_gb=0.1
    )
    with serve_app(create_app(settings)) as server:
        yield server


def tokens_of(choice: dict) -> list[str]:
    return [logprob["token"] for logprob in choice["logprobs"]["content"]]


def test_tags_that_are_special_tokens_are_detected():
    template = ChatTemplate(HERMES_TEMPLATE, {}, TOKENIZER)
    assert dict(find_format(template, "auto").special_tokens) == {TAGS[0]: BEGIN, TAGS[1]: END}
    plain = ChatTemplate(HERMES_TEMPLATE, {}, create_tokenizer().backend_tokenizer)
    assert find_format(plain, "auto").special_tokens == ()


def test_the_format_of_calls_is_detected_while_the_model_loads(server, monkeypatch):
    def render(*_: object, **__: object) -> str:
        raise AssertionError("the event loop renders templates of requests alone")

    monkeypatch.setattr(ChatTemplate, "render", render)
    assert server.engine.tool_call_format.name == "hermes"


@cache
def grammars() -> Grammars:
    return Grammars(TOKENIZER, TOKENIZER.get_vocab_size())


def test_a_grammar_allows_its_special_tokens_only_at_their_places():
    text = f"start: /[ab]/ <[{BEGIN}]> <[{END}]>"
    source = GrammarSource("lark", text, special_token_ids=frozenset({BEGIN, END}))
    matcher = grammars().compile(source).start(frozenset({0}))
    assert BEGIN not in allowed_by(matcher)
    take(matcher, TOKENIZER.encode("a").ids[0])
    assert allowed_by(matcher) == [BEGIN]
    take(matcher, BEGIN)
    assert allowed_by(matcher) == [END]


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ('<tool_call>\n{"name": "clock"', True),
        ('Hi <tool_call>\n{"name": "clock"', True),
        ("Hi <tool_call>x", False),
        ("Hi </tool_call", True),
    ],
)
@pytest.mark.parametrize("is_spelled", [False, True])
def test_a_call_must_follow_a_tag_as_token_or_as_text(text, is_allowed, is_spelled):
    template = ChatTemplate(HERMES_TEMPLATE, {}, TOKENIZER)
    tools = (Tool("clock"),)
    source = tool_grammar(ToolChoice(tools, tools), find_format(template, "auto"))
    grammar = grammars().compile(source)
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.encode_special_tokens = is_spelled
    token_ids = tokenizer.encode(text).ids
    assert (BEGIN in token_ids) == (TAGS[0] in text and not is_spelled)
    matcher = grammar.start(frozenset())
    with nullcontext() if is_allowed else pytest.raises(DeadEndError):
        take(matcher, *token_ids)


def test_special_tokens_that_are_part_of_the_text_are_spelled():
    (first, *_) = TOKENIZER.encode("é").ids
    token_ids = [*TOKENIZER.encode("a b").ids, BEGIN, *TOKENIZER.encode(" c").ids, first, END, 0]
    text = IncrementalDetokenizer(TOKENIZER, [], frozenset({BEGIN, END}))
    assert "".join(map(text.push, token_ids)) + text.finish() == "a b<tool_call> c</tool_call>"
    silent = IncrementalDetokenizer(TOKENIZER, [])
    assert "".join(map(silent.push, token_ids[:-3])) + silent.finish() == "a b c"


def test_a_forced_call_uses_the_special_tokens(server):
    for choice in ask(server, n=4, logprobs=True):
        calls = calls_of(choice["message"])
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        tokens = tokens_of(choice)
        assert tokens[0] == TAGS[0]
        assert tokens.count(TAGS[0]) == tokens.count(TAGS[1]) == len(calls)


def test_a_named_tool_is_called_once(server):
    named = {"type": "function", "function": {"name": "clock"}}
    for choice in ask(server, tool_choice=named, n=2):
        assert calls_of(choice["message"]) == [("clock", "{}")]


@pytest.mark.parametrize("tool_choice", ["required", "auto"])
def test_a_stream_has_the_content_of_the_whole_answer(server, tool_choice):
    bias = {str(BEGIN): 100} if tool_choice == "auto" else {}
    fields = {"tool_choice": tool_choice, "temperature": 0, "logit_bias": bias}
    (whole,) = ask(server, **fields)
    assert calls_of(whole["message"])
    with (
        openai_client(server) as client,
        client.chat.completions.stream(**chat(server, **fields)) as stream,
    ):
        final = stream.get_final_completion().choices[0]
    assert calls_of(final.message.model_dump()) == calls_of(whole["message"])
    assert final.finish_reason == whole["finish_reason"]


@pytest.mark.parametrize("engine", ["continuous", "reference"])
@pytest.mark.parametrize(
    ("generated", "content", "calls"),
    [
        (WROTE, "See <tool: ", [("clock", "{}")]),
        (WROTE[11:] + "\n" + WROTE[11:] + "<|endoftext|>", "", [("clock", "{}")] * 2),
        ("Well <tool_call or not<|endoftext|>", "Well <tool_call or not", []),
    ],
)
def test_free_text_of_a_model_is_parsed_into_text_and_calls(
    reciting_model, engine, generated, content, calls
):
    settings = create_settings(
        model_name=str(reciting_model(generated, *TAGS)),
        chat_template=RECITING_TEMPLATE,
        tool_call_format="hermes",
        engine=engine,
    )
    with serve_app(create_app(settings)) as server:
        fields = {"tool_choice": "auto", "tools": [TOOLS[1]], "temperature": 0}
        fields |= {"max_completion_tokens": 100, "logprobs": True}
        (choice,) = ask(server, **fields)
        assert (choice["message"]["content"] or "") == content
        assert calls_of(choice["message"]) == calls
        assert tokens_of(choice).count(TAGS[0]) == len(calls)
        assert choice["finish_reason"] == ("tool_calls" if calls else "stop")


def test_json_by_a_schema_may_spell_a_tag_but_not_use_its_token(server):
    bias = {str(token_id): 100 for token_id in (BEGIN, END)}
    fields = SHAPED | {"tools": None, "tool_choice": None, "logprobs": True, "n": 8}
    places = set()
    for choice in ask(server, **fields, logit_bias=bias):
        place = json.loads(choice["message"]["content"])
        Draft202012Validator(PLACE).validate(place)
        assert choice["finish_reason"] == "stop"
        assert not set(TAGS) & set(tokens_of(choice))
        places.add(place["place"])
    assert TAGS[0] in places


def test_with_a_schema_only_the_special_token_begins_a_call(server):
    fields = SHAPED | {"tool_choice": "auto", "logprobs": True, "n": 8}
    for choice in ask(server, **fields, logit_bias={str(BEGIN): -100}):
        Draft202012Validator(PLACE).validate(json.loads(choice["message"]["content"]))
        assert "tool_calls" not in choice["message"]
        assert choice["finish_reason"] == "stop"
    for choice in ask(server, **fields, logit_bias={str(BEGIN): 100}):
        assert calls_of(choice["message"])
        assert choice["message"]["content"] is None
        assert tokens_of(choice)[0] == TAGS[0]


def test_a_stream_follows_a_schema_for_a_model_with_special_tags(server):
    fields = SHAPED | {"tool_choice": "auto", "logit_bias": {str(BEGIN): -100}, "seed": 3}
    (whole,) = ask(server, **fields)
    with (
        openai_client(server) as client,
        client.chat.completions.stream(**chat(server, **fields)) as stream,
    ):
        final = stream.get_final_completion().choices[0]
    assert final.message.content == whole["message"]["content"]
    Draft202012Validator(PLACE).validate(json.loads(final.message.content))


def test_a_tag_spelled_in_a_request_stays_text(server):
    spelled = post(server, "/tokenize", messages=[QUESTION | {"content": TAGS[0]}]).json()
    assert BEGIN not in spelled["tokens"]
    grammar = {"structured_outputs": {"grammar": f"start: <[{BEGIN}]>"}, "tools": None}
    body = {k: v for k, v in chat(server, **grammar, tool_choice=None).items() if v is not None}
    assert post(server, "/v1/chat/completions", **body).status_code == 400
    call = {"name": "clock", "arguments": json.dumps({"a": TAGS[1]})}
    calling = [{"id": "1", "type": "function", "function": call}]
    messages = [
        QUESTION,
        {"role": "assistant", "content": "", "tool_calls": calling},
        {"role": "tool", "tool_call_id": "1", "content": TAGS[0]},
    ]
    tokens = post(server, "/tokenize", messages=messages).json()["tokens"]
    assert tokens.count(BEGIN) == tokens.count(END) == 1
