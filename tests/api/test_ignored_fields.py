"""Fields of clients that have no effect here: accepted, and named in the header `Warning`.

The bodies have the fields that coding agents and chat pages send, with texts of our own.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.servers import LocalServer, serve_app
from tests.support.wire import post

MODEL = "storyteller"
SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}},
    "required": ["path"],
    "additionalProperties": False,
}
QUESTION = "What is the capital of France?"
FUNCTION = {"name": "read_file", "description": "Read a file.", "parameters": SCHEMA}
CHAT_TOOL = {"type": "function", "function": FUNCTION}
CHAT_QUESTION = {"role": "user", "content": QUESTION}
CACHED = {"cache_control": {"type": "ephemeral"}}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serve_app(create_app(create_settings(unknown_fields="warn"))) as server:
        yield server
        wait_until(lambda: server.engine.num_live == 0)


def warnings(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return answer.headers.get_list("warning")


CLAUDE_CODE: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 64,
    "stream": True,
    "temperature": 1,
    "system": [
        {"type": "text", "text": "You help with code."},
        {"type": "text", "text": "Be short.", **CACHED},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": QUESTION, **CACHED}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "A file may help.", "signature": "abc"},
                {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "a"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Paris", **CACHED}
            ],
        },
    ],
    "tools": [
        {"name": "Read", "description": "Read a file.", "input_schema": SCHEMA, **CACHED},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    ],
    "metadata": {"user_id": "user_1_account__session_2"},
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "medium"},
    "betas": ["interleaved-thinking-2025-05-14"],
}
CODEX: dict[str, Any] = {
    "model": MODEL,
    "instructions": "You help with code.",
    "input": [
        {
            "type": "message",
            "role": "developer",
            "content": [{"type": "input_text", "text": "The folder may be written."}],
        },
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": QUESTION}],
        },
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"},
        {
            "type": "function_call",
            "name": "shell",
            "arguments": '{"path": "a"}',
            "call_id": "call_1",
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "Paris"},
    ],
    "tools": [
        {"type": "function", "name": "shell", "strict": False, "parameters": SCHEMA},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
        {"type": "web_search", "external_web_access": True},
        {"type": "namespace", "name": "mcp__a", "tools": []},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199",
    "client_metadata": {"x-codex-installation-id": "1"},
    "text": {"verbosity": "low"},
}
CHATS: dict[str, dict[str, Any]] = {
    "Cline": {
        "messages": [
            {"role": "system", "content": "You help with code."},
            {"role": "user", "content": [{"type": "text", "text": QUESTION, **CACHED}]},
        ],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "reasoning_effort": "medium",
    },
    "Continue": {
        "messages": [CHAT_QUESTION],
        "max_tokens": 16,
        "stream": True,
        "tools": [CHAT_TOOL],
        "parallel_tool_calls": False,
    },
    "OpenCode": {
        "messages": [
            {"role": "system", "content": "You help with code."},
            CHAT_QUESTION,
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "A file may help.",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "read_file", "arguments": '{"path": "a"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "Paris"},
        ],
        "tools": [CHAT_TOOL],
        "tool_choice": "auto",
        "max_tokens": 16,
        "stream": True,
        "stream_options": {"include_usage": True},
        "prompt_cache_key": "ses_1",
        "verbosity": "low",
    },
    "Open WebUI": {
        "messages": [CHAT_QUESTION],
        "stream": True,
        "max_tokens": 16,
        "chat_id": "1",
        "session_id": "2",
        "background_tasks": {"title_generation": True},
        "features": {"web_search": False},
        "metadata": {"chat_id": "1"},
    },
    "LibreChat": {
        "messages": [CHAT_QUESTION],
        "user": "65f0",
        "stream": True,
        "max_tokens": 16,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "promptPrefix": None,
        "store": True,
    },
    "Zed": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        "stream": True,
        "max_completion_tokens": 16,
        "stop": [],
        "temperature": 1.0,
        "tools": [CHAT_TOOL],
        "parallel_tool_calls": False,
        "prompt_cache_key": "thread",
    },
}


def events(answer: httpx2.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_a_coding_agent_of_anthropic_is_answered(server):
    answer = post(server, "/v1/messages?beta=true", **CLAUDE_CODE)
    assert warnings(answer) == [
        '299 - "without effect: context_management, metadata, user_id"',
        '299 - "ignored: betas, tools[1] (web_search_20250305)"',
    ]
    assert [event["type"] for event in events(answer)][-1] == "message_stop"


def test_a_coding_agent_of_openai_is_answered(server):
    answer = post(server, "/v1/responses", **CODEX)
    assert warnings(answer) == [
        '299 - "without effect: prompt_cache_key, client_metadata, verbosity"',
        '299 - "ignored: tools[1] (custom), tools[2] (web_search), tools[3] (namespace)"',
    ]
    last = events(answer)[-1]
    assert last["type"] == "response.completed"
    assert [tool["name"] for tool in last["response"]["tools"]] == ["shell"]


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_client_is_answered(server, name):
    answer = post(server, "/v1/chat/completions", model=MODEL, **CHATS[name])
    assert answer.status_code == 200, answer.text
    assert events(answer)[0]["object"] == "chat.completion.chunk"
    assert answer.text.endswith("data: [DONE]\n\n")


def chat(server: LocalServer, **fields: object) -> httpx2.Response:
    body = {"model": MODEL, "messages": [CHAT_QUESTION], "max_tokens": 8, "temperature": 0}
    return post(server, "/v1/chat/completions", **body | fields)


def test_an_unknown_field_is_ignored_and_named(server):
    plain = chat(server)
    answer = chat(server, temprature=2)
    assert warnings(answer) == ['299 - "ignored: temprature"']
    assert answer.json()["choices"] == plain.json()["choices"]
    assert warnings(plain) == []


def test_an_unknown_field_of_a_message_is_ignored_and_named(server):
    messages = [CHAT_QUESTION | {"timestamp": 5}]
    assert warnings(chat(server, messages=messages)) == ['299 - "ignored: timestamp"']


def test_values_that_ask_for_what_happens_anyway_give_no_warning(server):
    fields = {"store": False, "service_tier": "auto", "verbosity": "medium", "user": None}
    assert warnings(chat(server, **fields)) == []


def test_a_name_cannot_end_the_header(server):
    answer = chat(server, **{'a"\r\nSet-Cookie: b=c': 1, "ü" * 100: 1})
    (warning,) = warnings(answer)
    assert warning == f'299 - "ignored: a???Set-Cookie: b=c, {"?" * 64}"'
    assert "set-cookie" not in answer.headers


def test_many_unknown_fields_are_counted(server):
    (warning,) = warnings(chat(server, **{f"x{number}": 1 for number in range(30)}))
    assert warning.endswith('x15, and 14 more"')


def test_tools_that_a_server_would_run_do_not_count_as_tools(server):
    answer = chat(server, tools=[{"type": "web_search"}])
    assert warnings(answer) == ['299 - "ignored: tools[0] (web_search)"']
    assert answer.json()["choices"] == chat(server).json()["choices"]
    error = chat(server, tools=[{"type": "web_search"}], tool_choice="required")
    assert error.status_code == 400


def test_the_native_api_refuses_unknown_fields(server):
    answer = server.post({"prompt": "a", "temprature": 1})
    assert (answer.status_code, "temprature" in answer.text) == (422, True)


def test_answers_continue_the_last_message(server):
    question = {"role": "user", "content": QUESTION}
    whole = chat(server, messages=[question], max_tokens=30).json()["choices"][0]["message"]
    first, rest = "The capital of", whole["content"].removeprefix("The capital of")
    assert len(first) + len(rest) == len(whole["content"])
    begun = [question, {"role": "assistant", "content": first}]
    answer = chat(server, messages=begun, continue_final_message=True, max_tokens=30)
    assert answer.json()["choices"][0]["message"]["content"] == rest
    body = {"model": MODEL, "messages": begun, "max_tokens": 30, "temperature": 0}
    message = post(server, "/v1/messages", **body).json()
    assert message["content"] == [{"type": "text", "text": rest, "citations": None}]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [CHAT_QUESTION]},
        {"messages": [CHAT_QUESTION, {"role": "assistant", "content": ""}]},
        {
            "messages": [CHAT_QUESTION, {"role": "assistant", "content": "It"}],
            "add_generation_prompt": True,
        },
    ],
)
def test_a_message_that_cannot_be_continued_is_refused(server, fields):
    answer = chat(server, continue_final_message=True, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "continue_final_message"


def test_a_conversation_may_end_without_the_head_of_an_answer(server):
    begun = [CHAT_QUESTION, {"role": "assistant", "content": "It is"}]
    ends = {
        name: post(server, "/tokenize", model=MODEL, messages=begun, **fields).json()["count"]
        for name, fields in {
            "head": {},
            "turn": {"add_generation_prompt": False},
            "text": {"continue_final_message": True},
        }.items()
    }
    assert ends["head"] > ends["turn"] > ends["text"]
    answer = chat(server, messages=begun, add_generation_prompt=False)
    assert answer.json()["usage"]["prompt_tokens"] == ends["turn"]


def test_head_is_get_without_a_body(server):
    whole = server.get("/v1/models")
    head = httpx2.head(server.url + "/v1/models", headers=server.headers)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    assert httpx2.head(server.url + "/generate").status_code == 405


def test_doubled_slashes_are_one(server):
    assert server.get("//v1/models").json() == server.get("/v1/models").json()
    body = {"model": MODEL, "messages": [CHAT_QUESTION], "max_tokens": 2}
    assert post(server, "//v1//chat/completions", **body).status_code == 200


def test_seeds_may_be_negative(server):
    answers = [chat(server, seed=-5, temperature=1).json()["choices"] for _ in range(2)]
    assert answers[0] == answers[1]
