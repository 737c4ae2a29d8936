"""Tool calls for chat templates that demand short ids, as Mistral's, or arguments as text."""

import json

import pytest

from src.errors import InvalidRequestError
from src.text.call_adaptations import SHORT_ID, short_id, with_short_ids
from src.text.chat_template import ChatMessage, ChatTemplate, MessageToolCall
from tests.support.servers import LocalServer
from tests.support.tiny_models import create_tokenizer
from tests.support.tools import HERMES_TEMPLATE, SCHEMAS
from tests.support.wire import post

REFUSAL = "{{ raise_exception('Tool call IDs should have length 9!') }}"
STRICT_TEMPLATE = HERMES_TEMPLATE.replace(
    "{%- for c in m.tool_calls or [] %}",
    "{%- for id in [m.tool_call_id] if m.role == 'tool' %}[{{ id }}]"
    "{% if id | length != 9 %}" + REFUSAL + "{% endif %}{% endfor %}"
    "{%- for c in m.tool_calls or [] %}[{{ c.id }}]"
    "{% if c.id | length != 9 %}" + REFUSAL + "{% endif %}",
)
LONG_ID = "call_7f2ab4d0f19c4f2b8d25ce7be98b6cd1"
NAMED = {"type": "function", "function": {"name": "clock"}}
TOOL = {"name": "clock", "description": "Tells the time."}


def conversation(call_id: str) -> list[ChatMessage]:
    return [
        ChatMessage("user", "When?"),
        ChatMessage("assistant", "", (MessageToolCall(call_id, "clock", {}),)),
        ChatMessage("tool", "noon", tool_call_id=call_id, name="clock"),
    ]


def create_template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {}, create_tokenizer().backend_tokenizer)


def test_a_short_id_is_kept_and_others_are_hashed():
    assert short_id("aB3456789") == "aB3456789"
    made = {
        short_id(call_id)
        for call_id in (LONG_ID, "call_1", "", "aB345678", "aB345678é", "ab-456789")
    }
    assert len(made) == 6
    assert all(SHORT_ID.fullmatch(call_id) for call_id in made)
    _, calling, result = with_short_ids(conversation(LONG_ID))
    assert calling.tool_calls[0].call_id == result.tool_call_id == short_id(LONG_ID)


def test_the_template_gets_the_same_short_id_for_a_call_and_its_result():
    template = create_template(STRICT_TEMPLATE)
    for _ in range(2):  # the second time the need for short ids is known
        text = template.render(conversation(LONG_ID))
        assert text.count(f"[{short_id(LONG_ID)}]") == 2
    assert template.encode(conversation(LONG_ID)) == template.encode(
        with_short_ids(conversation(LONG_ID))
    )


def test_a_template_without_limits_on_ids_gets_them_unchanged():
    text = create_template(HERMES_TEMPLATE + "{{ messages[2].tool_call_id }}").render(
        conversation(LONG_ID)
    )
    assert text.endswith(LONG_ID)


@pytest.mark.parametrize("source", [HERMES_TEMPLATE, STRICT_TEMPLATE])
def test_a_template_that_concatenates_arguments_gets_them_as_text(source):
    template = create_template(
        source.replace("~ c.function.arguments | tojson ~", "+ c.function.arguments +")
    )
    for _ in range(2):  # the second time the need is known
        assert '"arguments": {}}' in template.render(conversation(LONG_ID))


def test_an_error_for_another_reason_is_kept():
    source = HERMES_TEMPLATE + "{{ raise_exception('no tools today') }}"
    with pytest.raises(InvalidRequestError, match="no tools today"):
        create_template(source).encode(conversation(LONG_ID))


def ask(server: LocalServer, path: str, **fields: object) -> dict:
    response = post(server, path, model=server.engine.model_name, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_calls_and_results_with_long_ids_work_in_every_api(start_server, roomy_model):
    server = start_server(model_name=str(roomy_model), chat_template=STRICT_TEMPLATE)
    question = {"role": "user", "content": "When?"}
    fields = {"messages": [question], "tools": [{"type": "function", "function": TOOL}]}
    answer = ask(server, "/v1/chat/completions", **fields, tool_choice=NAMED)
    message = answer["choices"][0]["message"]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "noon"}
        for call in message["tool_calls"]
    ]
    fields["messages"] = [question, message, *results]
    assert ask(server, "/v1/chat/completions", **fields, max_tokens=1)["choices"]

    fields = {"input": [question], "tools": [{"type": "function"} | TOOL]}
    named = {"type": "function", "name": "clock"}
    items = ask(server, "/v1/responses", **fields, tool_choice=named)["output"]
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "noon"}
        for item in items
    ]
    fields["input"] = [question, *items, *results]
    assert ask(server, "/v1/responses", **fields, max_output_tokens=16)["output"]

    fields = {"tools": [TOOL | {"input_schema": SCHEMAS["clock"]}], "max_tokens": 400}
    chosen = {"tool_choice": {"type": "tool", "name": "clock"}}
    blocks = ask(server, "/v1/messages", **fields, messages=[question], **chosen)["content"]
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": json.dumps("noon")}
        for block in blocks
    ]
    turns = [question, {"role": "assistant", "content": blocks}]
    turns.append({"role": "user", "content": results})
    assert ask(server, "/v1/messages", **fields | {"max_tokens": 1}, messages=turns)["content"]
