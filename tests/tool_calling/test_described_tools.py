"""Tools for chat templates without a place for them, as SmolLM2's."""

import pytest

from src.text.chat_template import ChatMessage, ChatTemplate, MessageToolCall
from src.tool_calling.described_tools import with_described_tools
from src.tool_calling.detection import find_format
from src.tool_calling.formats.deepseek import DEEPSEEK_V31
from src.tool_calling.formats.hermes import HERMES
from src.tool_calling.grammar import Tool
from tests.support.tiny_models import create_tokenizer
from tests.support.tool_formats import FORMATS

CHATML = """{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}
{{- '<|im_start|>' ~ m['role'] ~ '\n' ~ m['content'] ~ '<|im_end|>\n' }}{% endfor %}"""
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML
DEEPSEEK = FORMATS["deepseek_v31"].template.partition("%}{% endif %}")[2]
CLOCK = Tool("clock", "Tells the time.")
CONVERSATION = [
    ChatMessage("user", "When?"),
    ChatMessage(
        "assistant",
        "Let me see.",
        (MessageToolCall("1", "clock", {}), MessageToolCall("2", "clock", {"zone": "UTC"})),
    ),
    ChatMessage("tool", "noon", tool_call_id="1", name="clock"),
    ChatMessage("tool", "ten", tool_call_id="2", name="clock"),
    ChatMessage("assistant", "Noon."),
]


def create_template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {}, create_tokenizer().backend_tokenizer)


@pytest.mark.parametrize(
    ("source", "name", "expected", "place"),
    [
        (CHATML, "auto", "hermes", "system"),
        (CHATML, "qwen3_coder", "qwen3_coder", "system"),
        (NO_SYSTEM, "auto", "hermes", "user"),
        (DEEPSEEK, "auto", "deepseek_v31", "system"),
    ],
)
def test_a_template_without_a_place_for_tools_gets_them_in_a_message(source, name, expected, place):
    found = find_format(create_template(source), name)
    assert (found.name, found.tools_place) == (expected, place)
    assert found.is_in_template == (source == DEEPSEEK)
    text = create_template(source).render(with_described_tools(CONVERSATION, [CLOCK], found))
    assert text.count("Tells the time.") == 1
    assert text.index("Tells the time.") < text.index("When?")
    assert text.count(found.write_calls([("clock", {}), ("clock", {"zone": "UTC"})])) == 1


def test_calls_and_results_become_text_of_turns():
    found = find_format(create_template(CHATML), "auto")
    turns = with_described_tools(CONVERSATION, [], found)
    assert [turn.role for turn in turns] == ["user", "assistant", "user", "assistant"]
    assert turns[1].content == (
        'Let me see.\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call>'
    )
    assert turns[2].content == (
        "<tool_response>\nnoon\n</tool_response>\n<tool_response>\nten\n</tool_response>"
    )
    assert not any(turn.tool_calls or turn.tool_call_id for turn in turns)


def test_a_system_message_keeps_its_text():
    found = find_format(create_template(CHATML), "auto")
    messages = [ChatMessage("system", "Be brief."), ChatMessage("user", "When?")]
    first, _ = with_described_tools(messages, [CLOCK], found)
    assert first.content.startswith("Be brief.\n\nYou can call functions.")
    assert HERMES.write_calls([("function_name", {"argument": "value"})]) in first.content


def test_a_template_with_calls_of_its_own_keeps_them():
    found = find_format(create_template(DEEPSEEK), "auto")
    assert found.name == DEEPSEEK_V31.name
    first, *turns = with_described_tools(CONVERSATION, [CLOCK], found)
    assert first.role == "system"
    assert turns == CONVERSATION
