"""Answers that a client sends back in its next request, in each form that its helpers return.

Other clients do the same in tests/clients/, in environments of their own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import pytest
from anthropic import beta_tool
from pydantic import BaseModel

from tests.api.anthropic.test_messages import ASKED, BODY, MESSAGES, QUESTION
from tests.api.openai.test_chat_and_completions import CHAT
from tests.support.servers import ROOT, Server
from tests.support.wire import anthropic_client, post

CHOSEN = {"type": "any", "disable_parallel_tool_use": True}


class City(BaseModel):
    """Arguments of a tool, and the shape of an answer."""

    is_capital: bool


TOOL = {"name": "City", "input_schema": City.model_json_schema()}


@pytest.fixture(scope="module")
def ai(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic_client(server) as client:
        yield client


def test_openais_answers_can_be_sent_back(server):
    """By the installed version of the client; test_clients.py runs it with an older one."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "clients" / "with_openai.py"],
        env=os.environ | {"SERVER_URL": server.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_fields_that_clients_add_to_answers_have_no_effect(server):
    said = {"role": "assistant", "content": "Rome."}
    turns = [*CHAT["messages"], said, *CHAT["messages"]]
    added = said | {"parsed": {"city": ["Rome", {"is_capital": True}]}}
    answers = [
        post(server, "/v1/chat/completions", **CHAT | {"messages": messages}).json()["choices"]
        for messages in (turns, [turns[0], added, *turns[2:]])
    ]
    assert answers[0] == answers[1]


def forms_of(blocks: list[Any]) -> Iterator[list[Any]]:
    yield blocks
    yield [block.model_dump() for block in blocks]
    yield [block.model_dump(mode="json", exclude_unset=True) for block in blocks]
    yield [json.loads(block.model_dump_json(exclude_none=True)) for block in blocks]
    yield [block.to_dict() for block in blocks]


def answers_of(ai: anthropic.Anthropic, **fields: Any) -> Iterator[anthropic.types.Message]:
    yield ai.messages.create(**ASKED, **fields)
    yield ai.messages.parse(**ASKED, **fields)
    yield ai.messages.parse(**ASKED, **fields | ({} if fields else {"output_format": City}))
    with ai.messages.stream(**ASKED, **fields) as stream:
        yield stream.get_final_message()


@pytest.mark.parametrize("fields", [{}, {"tools": [TOOL], "tool_choice": CHOSEN}])
def test_anthropics_answers_can_be_sent_back(ai, fields):
    for answer in answers_of(ai, **fields):
        calls = [block.id for block in answer.content if block.type == "tool_use"]
        assert bool(calls) == bool(fields)
        results = [{"type": "tool_result", "tool_use_id": call, "content": "yes"} for call in calls]
        turn = {"role": "user", "content": results} if results else QUESTION[0]
        for blocks in forms_of(answer.content):
            messages = [*QUESTION, {"role": "assistant", "content": blocks}, turn]
            assert ai.messages.create(**ASKED | fields | {"messages": messages}).content


def test_anthropics_tool_runner_goes_on_without_a_thread(server, ai):
    """It asks for a thread first, and the refusal tells it how to go on."""
    called = []

    @beta_tool
    def weather(city: Literal["Rome", "Oslo"]) -> str:
        """Tells the weather in a city."""
        called.append(city)
        return "sunny"

    runner = ai.beta.messages.tool_runner(
        **ASKED | {"max_tokens": 100}, tools=[weather], tool_choice=CHOSEN, max_iterations=2
    )
    assert [message.stop_reason for message in runner] == ["tool_use"] * 2
    assert called
    refused = post(server, MESSAGES, **BODY | {"thread": {"type": "create"}})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["details"] == {"error_code": "thread_unsupported_request"}
    assert "thread" in error["message"]
