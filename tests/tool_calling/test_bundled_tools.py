"""The bundled model calls tools and reports their results, through OpenAI's client."""

import json
from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessage

from tests.support.servers import Server
from tests.support.wire import openai_client
from training.action_skills import ACTION_SKILLS
from training.lookup_skills import LOOKUP_SKILLS

MODEL = "storyteller"
WORD, COUNT = {"type": "string"}, {"type": "integer"}


def create_tool(name: str, description: str, **properties: object) -> dict:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


WEATHER = create_tool("get_weather", "Get the weather in a city.", city=WORD)
TIME = create_tool("get_time", "Get the current time in a city.", city=WORD)
TIMER = create_tool("set_timer", "Set a timer in minutes.", minutes=COUNT)
MUSIC = create_tool("play_music", "Play music.", genre=WORD)
DEVICE = create_tool(
    "set_device",
    "Turn a device on or off.",
    device=WORD,
    state={"type": "string", "enum": ["on", "off"]},
)
CALLS = [
    ("What's the weather like in Paris?", [WEATHER], {"city": "Paris"}, "18"),
    ("What time is it in Tokyo?", [TIME, WEATHER], {"city": "Tokyo"}, "14:30"),
    ("Turn on the lamp, please.", [DEVICE, WEATHER], {"device": "lamp", "state": "on"}, "ok"),
    ("Set a timer for 7 minutes.", [TIMER, MUSIC], {"minutes": 7}, "started"),
    ("Play some rock.", [MUSIC], {"genre": "rock"}, "ok"),
]


@pytest.fixture(scope="module")
def ai(server: Server) -> Iterator[openai.OpenAI]:
    with openai_client(server) as client:
        yield client


def ask(ai: openai.OpenAI, tools: list[dict], *messages: object) -> ChatCompletionMessage:
    answer = ai.chat.completions.create(
        model=MODEL, messages=messages, tools=tools, temperature=0, max_completion_tokens=100
    )
    choice = answer.choices[0]
    assert choice.finish_reason == ("tool_calls" if choice.message.tool_calls else "stop")
    return choice.message


def test_the_tools_are_those_of_the_training_data():
    known = {skill.name for skill in (*LOOKUP_SKILLS, *ACTION_SKILLS)}
    assert {tools[0]["function"]["name"] for _, tools, _, _ in CALLS} == known


@pytest.mark.parametrize(("text", "tools", "arguments", "result"), CALLS)
def test_the_model_calls_a_listed_tool_and_reports_its_result(ai, text, tools, arguments, result):
    question = {"role": "user", "content": text}
    message = ask(ai, tools, question)
    (call,) = message.tool_calls
    assert call.function.name == tools[0]["function"]["name"]
    assert json.loads(call.function.arguments) == arguments
    reply = {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"result": result})}
    assert result in ask(ai, tools, question, message, reply).content


def test_a_stream_has_the_same_call(ai):
    question = {"role": "user", "content": CALLS[0][0]}
    with ai.chat.completions.stream(
        model=MODEL, messages=[question], tools=[WEATHER], temperature=0
    ) as stream:
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "get_weather",
        {"city": "Paris"},
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("What is the capital of Italy?", "The capital of Italy is Rome."),
        ("What is 3 + 4?", "3 + 4 = 7."),
    ],
)
def test_questions_that_need_no_tool_are_answered_with_text(ai, text, answer):
    message = ask(ai, [WEATHER], {"role": "user", "content": text})
    assert (message.tool_calls, message.content) == (None, answer)
