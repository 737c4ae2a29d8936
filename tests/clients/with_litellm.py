"""litellm against the service.

Usage of streams, JSON, tools, completions, embeddings, asynchronous calls, answers sent back, error
classes.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import litellm

litellm.suppress_debug_info = True
SERVER = {"api_base": os.environ["SERVER_URL"] + "/v1", "api_key": "none", "max_retries": 0}
CHAT = {"model": "openai/storyteller", "temperature": 0, **SERVER}
TEXT = {"model": "text-completion-openai/storyteller", "temperature": 0, **SERVER}
QUESTION = [{"role": "user", "content": "What is the capital of Italy?"}]
ANSWER = "The capital of Italy is Rome."


def ask() -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(litellm.completion(**CHAT, **options, messages=QUESTION))
    whole = litellm.stream_chunk_builder(chunks, messages=QUESTION)
    assert whole.choices[0].message.content == ANSWER
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.completion_tokens == 8
    schema = {"type": "object", "properties": {"name": {"enum": ["Rome", "Oslo"]}}}
    shape = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    answer = litellm.completion(**CHAT, messages=QUESTION, response_format=shape)
    assert isinstance(json.loads(answer.choices[0].message.content), dict)
    model = {"model": "openai/storyteller", **SERVER}
    assert len(litellm.embedding(**model, input=["a", "b"]).data) == 2
    newer = litellm.responses(**model, temperature=0, input=QUESTION[0]["content"])
    assert newer.output[0].content[0].text == ANSWER
    answer = litellm.text_completion(**TEXT, prompt="The capital of Italy is")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (" Rome.", "stop")
    pieces = litellm.text_completion(**TEXT, prompt="The capital of Italy is", stream=True)
    assert "".join(piece.choices[0].text or "" for piece in pieces) == " Rome."


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def call_tools() -> None:
    fields = {**CHAT, "messages": QUESTION, "tools": [WEATHER], "parallel_tool_calls": False}
    answer = litellm.completion(**fields, tool_choice="required").choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
    chunks = list(litellm.completion(**fields, tool_choice="required", stream=True))
    streamed = litellm.stream_chunk_builder(chunks, messages=QUESTION).choices[0]
    assert streamed.finish_reason == "tool_calls"
    (again,) = streamed.message.tool_calls
    assert again.function.arguments == call.function.arguments
    named = {"type": "function", "function": {"name": "weather"}}
    answer = litellm.completion(**fields, tool_choice=named).choices[0]
    assert answer.message.tool_calls[0].function.name == "weather"
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    told = [*QUESTION, answer.message, result | {"tool_call_id": answer.message.tool_calls[0].id}]
    assert litellm.completion(**fields | {"messages": told}).choices[0].finish_reason == "stop"


def forms_of(answer: Any) -> list[Any]:
    """An object, and the dictionaries that its methods make of it."""
    return [answer, answer.model_dump(), answer.model_dump(exclude_none=True), answer.to_dict()]


def answers(**fields: Any) -> Iterator[Any]:
    """Messages of the assistant, whole and streamed."""
    yield litellm.completion(**CHAT, messages=QUESTION, **fields).choices[0].message
    chunks = list(litellm.completion(**CHAT, messages=QUESTION, stream=True, **fields))
    yield litellm.stream_chunk_builder(chunks, messages=QUESTION).choices[0].message


def send_answers_back() -> None:
    for message in answers():
        for form in forms_of(message):
            assert litellm.completion(**CHAT, messages=[*QUESTION, form, *QUESTION]).choices
    tools = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    for message in answers(**tools):
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
        for form in forms_of(message):
            assert litellm.completion(**CHAT, messages=[*QUESTION, form, result]).choices
    answer = litellm.responses(**CHAT, input=QUESTION)
    for output in (answer.output, answer.model_dump()["output"]):
        assert litellm.responses(**CHAT, input=[*QUESTION, *output, *QUESTION]).output


async def ask_asynchronously() -> None:
    answers = await asyncio.gather(
        *(litellm.acompletion(**CHAT, messages=QUESTION) for _ in range(8))
    )
    assert [answer.choices[0].message.content for answer in answers] == [ANSWER] * 8


def ask_for_what_cannot_be() -> None:
    too_long = [{"role": "user", "content": "word " * 3000}]
    for changed, kind in (
        ({"messages": too_long}, litellm.ContextWindowExceededError),
        ({"model": "openai/gpt-4"}, litellm.NotFoundError),
        ({"temperature": 3}, litellm.BadRequestError),
    ):
        try:
            litellm.completion(**{**CHAT, "messages": QUESTION, **changed})
        except kind:
            continue
        raise AssertionError(kind)


ask()
call_tools()
send_answers_back()
asyncio.run(ask_asynchronously())
ask_for_what_cannot_be()
