"""Answers of OpenAI's client for Python, sent back in the next request in each form that it has.

Runs with openai 2.x and 3.x.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import openai
from pydantic import BaseModel

client = openai.OpenAI(base_url=os.environ["SERVER_URL"] + "/v1", api_key="none", max_retries=0)
QUESTION: Any = {"role": "user", "content": "What is the capital of Italy?"}
CHAT: Any = {"model": "storyteller", "temperature": 0}


class City(BaseModel):
    """Arguments of a tool, and the shape of an answer."""

    is_capital: bool


CHAT_TOOL = openai.pydantic_function_tool(City)
RESPONSE_TOOL: Any = {
    "type": "function",
    "name": "City",
    "strict": True,
    "parameters": CHAT_TOOL["function"]["parameters"],
}


def forms_of(answer: BaseModel) -> Iterator[Any]:
    """The object itself, and the dictionaries that its methods make of it."""
    yield answer
    yield answer.model_dump()
    yield answer.model_dump(exclude_none=True)
    yield answer.model_dump(by_alias=True)
    yield answer.model_dump(mode="json", exclude_unset=True)
    yield json.loads(answer.model_dump_json())
    yield answer.to_dict()  # type: ignore[attr-defined]


def chat_answers(**fields: Any) -> Iterator[Any]:
    """Messages of the assistant, by each helper."""
    plain = {name: value for name, value in fields.items() if name != "response_format"}
    yield client.chat.completions.create(**CHAT, messages=[QUESTION], **plain).choices[0].message
    yield client.chat.completions.parse(**CHAT, messages=[QUESTION], **fields).choices[0].message
    with client.chat.completions.stream(**CHAT, messages=[QUESTION], **fields) as stream:
        yield stream.get_final_completion().choices[0].message


def send_chats_back() -> None:
    for fields in ({}, {"response_format": City}):
        for message in chat_answers(**fields):
            for form in forms_of(message):
                told = [QUESTION, form, QUESTION]
                assert client.chat.completions.create(**CHAT, messages=told).choices


def send_chat_calls_back() -> None:
    fields = {"tools": [CHAT_TOOL], "parallel_tool_calls": False, "tool_choice": "required"}
    for message in chat_answers(**fields):
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "yes"}
        for form in forms_of(message):
            told = [QUESTION, form, result]
            assert client.chat.completions.create(**CHAT, messages=told, tools=[CHAT_TOOL]).choices


def responses(shape: type[BaseModel] | None = None, **fields: Any) -> Iterator[Any]:
    """Responses, by each helper."""
    fields = {**CHAT, "input": [QUESTION], **fields}
    shaped = fields if shape is None else {**fields, "text_format": shape}
    yield client.responses.create(**fields)
    yield client.responses.parse(**shaped)
    with client.responses.stream(**shaped) as stream:
        yield stream.get_final_response()


def dumped(answer: Any) -> Iterator[list[Any]]:
    """An answer's output in each form, dumped item by item and as a whole."""
    for forms in zip(*(forms_of(item) for item in answer.output), strict=True):
        yield list(forms)
    yield answer.model_dump()["output"]
    yield answer.to_dict()["output"]


def send_responses_back() -> None:
    for shape in (None, City):
        for answer in responses(shape):
            for output in dumped(answer):
                told = [QUESTION, *output, QUESTION]
                assert client.responses.create(**CHAT, input=told).output


def send_response_calls_back() -> None:
    fields = {"tools": [RESPONSE_TOOL], "parallel_tool_calls": False, "tool_choice": "required"}
    for answer in responses(**fields):
        (call,) = (item for item in answer.output if item.type == "function_call")
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "yes"}
        for output in dumped(answer):
            told = [QUESTION, *output, result]
            assert client.responses.create(**CHAT, input=told, tools=[RESPONSE_TOOL]).output


send_chats_back()
send_chat_calls_back()
send_responses_back()
send_response_calls_back()
