"""LangChain against the service.

Asynchronous calls, batches, log-probabilities, parsed answers, embeddings, tools, OpenAI's
Responses API, answers sent back, error classes.
"""

import asyncio
import os
from collections.abc import Iterable
from typing import Literal

import openai
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    ToolMessage,
    messages_from_dict,
    messages_to_dict,
)
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

SERVER = {"base_url": os.environ["SERVER_URL"] + "/v1", "api_key": "none"}
QUESTION = "What is the capital of Italy?"
QUESTION_TURN = HumanMessage(QUESTION)
ANSWER = "The capital of Italy is Rome."

chat = ChatOpenAI(model="storyteller", temperature=0, max_retries=0, **SERVER)
text = OpenAI(model="storyteller", temperature=0, max_retries=0, **SERVER)


async def ask_asynchronously() -> None:
    assert (await chat.ainvoke(QUESTION)).content == ANSWER
    answers = await chat.abatch([QUESTION] * 8)
    assert [answer.content for answer in answers] == [ANSWER] * 8
    chunks = [chunk async for chunk in chat.astream(QUESTION, stream_usage=True)]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content == ANSWER
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.usage_metadata["output_tokens"] == 8
    assert "".join([piece async for piece in text.astream("The capital of Italy is")]) == " Rome."


def ask_for_more_than_text() -> None:
    told = chat.bind(logprobs=True, top_logprobs=2).invoke(QUESTION)
    tokens = told.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens[:-1]) == ANSWER  # the last one is the end
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)
    assert chat.invoke(QUESTION, stop=[" is"]).content == "The capital of Italy"
    cut = chat.bind(max_tokens=2).invoke(QUESTION)
    assert cut.response_metadata["finish_reason"] == "length"
    several = ChatOpenAI(model="storyteller", n=3, seed=1, max_tokens=5, **SERVER)
    (choices,) = several.generate([[HumanMessage(QUESTION)]]).generations
    assert len(choices) == 3
    (first, second) = text.generate(["2 + 2 =", "The capital of Italy is"], stop=["."]).generations
    assert first[0].text.startswith(" 4")
    assert second[0].text == " Rome"


class City(BaseModel):
    """Facts about a city."""

    name: str
    is_capital: bool


def ask_for_objects() -> None:
    city = chat.with_structured_output(City).invoke(QUESTION)
    assert isinstance(city, City)
    assert isinstance(chat.with_structured_output(method="json_mode").invoke(QUESTION), dict)


@tool
def weather(city: Literal["Rome", "Oslo"]) -> str:
    """Tells the weather in a city."""
    return f"sunny in {city}"


def call_tools(model: ChatOpenAI) -> None:
    bound = model.bind_tools([weather, City], tool_choice="weather", parallel_tool_calls=False)
    answer = bound.invoke(QUESTION)
    assert not answer.invalid_tool_calls
    (call,) = answer.tool_calls
    assert call["name"] == "weather"
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert result.content in ("sunny in Rome", "sunny in Oslo")
    chunks = list(bound.stream(QUESTION))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert [(one["name"], one["args"]) for one in whole.tool_calls] == [("weather", call["args"])]
    forced = model.bind_tools([weather, City], tool_choice="required").invoke(QUESTION)
    assert {one["name"] for one in forced.tool_calls} <= {"weather", "City"}
    assert forced.tool_calls
    after = model.bind_tools([weather]).invoke([HumanMessage(QUESTION), answer, result])
    assert isinstance(after, AIMessage)
    city = model.with_structured_output(City, method="function_calling").invoke(QUESTION)
    assert isinstance(city, City)


def summed(chunks: Iterable[AIMessageChunk]) -> AIMessage:
    """A stream as one message."""
    first, *others = chunks
    return sum(others, start=first)


def send_answers_back(model: ChatOpenAI) -> None:
    shaped = model.with_structured_output(City, include_raw=True)
    calling = model.bind_tools([weather], tool_choice="weather")
    for answer in (model.invoke(QUESTION), summed(model.stream(QUESTION)), shaped.invoke(QUESTION)):
        message = answer["raw"] if isinstance(answer, dict) else answer
        assert isinstance(model.invoke([QUESTION_TURN, message, QUESTION_TURN]), AIMessage)
    for message in (calling.invoke(QUESTION), summed(calling.stream(QUESTION))):
        results = [weather.invoke(call) for call in message.tool_calls]
        assert isinstance(calling.invoke([QUESTION_TURN, message, *results]), AIMessage)
        restored = messages_from_dict(messages_to_dict([QUESTION_TURN, message, *results]))
        assert isinstance(calling.invoke(restored), AIMessage)


newer = ChatOpenAI(model="storyteller", temperature=0, use_responses_api=True, **SERVER)


def ask_the_newer_api() -> None:
    assert newer.invoke(QUESTION).text == ANSWER
    assert "".join(chunk.text for chunk in newer.stream(QUESTION)) == ANSWER


def embed() -> None:
    # Without the check it sends texts, and not what OpenAI's tokenizer makes of them.
    embeddings = OpenAIEmbeddings(model="storyteller", check_embedding_ctx_length=False, **SERVER)
    first, second = embeddings.embed_documents(["Once upon a time", "Once upon a time"])
    assert first == second
    assert abs(sum(value * value for value in first) - 1) < 1e-3


def ask_for_what_cannot_be() -> None:
    for call, kind in (
        (lambda: chat.invoke("word " * 3000), ContextOverflowError),
        (lambda: chat.invoke(QUESTION, model="gpt-4"), openai.NotFoundError),
        (lambda: chat.invoke(QUESTION, temperature=3), openai.BadRequestError),
    ):
        try:
            call()
        except kind:
            continue
        raise AssertionError(kind)


asyncio.run(ask_asynchronously())
ask_for_more_than_text()
ask_for_objects()
call_tools(chat)
call_tools(newer)
send_answers_back(chat)
send_answers_back(newer)
ask_the_newer_api()
embed()
ask_for_what_cannot_be()
