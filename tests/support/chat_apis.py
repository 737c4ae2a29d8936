"""The three chat APIs behind one interface, so that a scenario is written once for all of them.

A scenario speaks of turns, tools, choices and answers; an adapter says them in its API's fields,
checks each answer against the client's own types, and reads it back.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import anthropic
import httpx2
import openai
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from src.api.anthropic.request import MessageRequest
from src.api.openai.chat.request import ChatCompletionRequest
from src.api.openai.responses.request import ResponseRequest
from tests.support.servers import LocalServer, Server, parse_events
from tests.support.wire import (
    KEY,
    anthropic_client,
    assert_no_extras,
    assert_shape,
    openai_client,
    post,
)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool; without a schema it takes no arguments."""

    name: str
    schema: dict[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool, its arguments parsed; None if they were cut off."""

    name: str
    arguments: object
    call_id: str = field(compare=False, default="call_1")


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of a conversation: thought, text and calls of an assistant, or results by call ids."""

    role: str
    text: str = ""
    thought: str = ""
    calls: Sequence[Call] = ()
    results: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in terms that all three APIs have."""

    text: str
    calls: list[Call]
    is_cut: bool
    num_prompt_tokens: int = field(compare=False)
    num_output_tokens: int
    thought: str = ""
    num_thought_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer: the field as `a.0.b`, if the API names one, and the message."""

    status: int
    place: str
    message: str


class ChatApi(ABC):
    """One API: its request fields, its answers, its streams and its client.

    Args:
        path: of the route.
        request: the wire model of its requests.
        turns: its field of turns.
        max_tokens: its field of the largest number of new tokens.
    """

    path: str
    request: type[BaseModel]
    turns: str
    max_tokens: str

    def __str__(self) -> str:
        return self.path.removeprefix("/v1/").replace("/", "-")

    def body(
        self,
        server: Server | LocalServer | str,
        turns: Sequence[Turn] = (Turn("user", "How is it?"),),
        max_tokens: int = 400,
        tools: Sequence[Tool] = (),
        choice: str | Tool | None = None,
        is_parallel: bool | None = None,
        **fields: object,
    ) -> dict[str, object]:
        """Returns a request; `choice` is auto, required, none or a tool."""
        body: dict[str, object] = {"model": model_name(server), "temperature": 0}
        body |= {self.turns: [item for turn in turns for item in self.written(turn)]}
        body |= {self.max_tokens: max_tokens}
        if tools:
            body["tools"] = [self.tool(tool) for tool in tools]
        return body | self.choice(choice, is_parallel) | fields

    @abstractmethod
    def written(self, turn: Turn) -> list[dict[str, object]]:
        """Returns the items that say a turn."""

    @abstractmethod
    def tool(self, tool: Tool) -> dict[str, object]:
        """Returns the definition of a tool."""

    @abstractmethod
    def choice(self, choice: str | Tool | None, is_parallel: bool | None) -> dict[str, object]:
        """Returns the fields that say which tools may or must be called."""

    @abstractmethod
    def thinking(self, is_enabled: bool) -> dict[str, object]:
        """Returns the fields that turn thinking on or off."""

    @abstractmethod
    def read(self, answer: dict) -> Answer:
        """Checks a whole answer against the client's type and reads it."""

    @abstractmethod
    def read_stream(self, response: httpx2.Response) -> Answer:
        """Checks all events against the client's types and puts the answer together."""

    @abstractmethod
    def stream_by_client(self, server: Server | LocalServer, body: dict) -> Answer:
        """Streams through the client's own helper, which puts the answer together."""

    @abstractmethod
    async def last_event_by_async_client(self, server: Server, body: dict) -> str:
        """Streams through the asynchronous client; returns the kind of the last event."""

    @abstractmethod
    def create_by_client(self, server: Server | LocalServer, body: dict) -> None:
        """Asks through the client, which raises its own errors; reads a stream to its end."""

    @abstractmethod
    def error(self, response: httpx2.Response) -> Refusal:
        """Checks and reads an error answer."""

    def ask(self, server: Server | LocalServer, **asked: object) -> Answer:
        """Asks once and reads the whole answer."""
        response = post(server, self.path, **self.body(server, **asked))
        assert response.status_code == 200, response.text
        return self.read(response.json())

    def stream(self, server: Server | LocalServer, **asked: object) -> Answer:
        """Asks once and reads the stream."""
        response = post(server, self.path, **self.body(server, **asked), stream=True)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        return self.read_stream(response)

    def refuse(self, server: Server | LocalServer, **asked: object) -> Refusal:
        """Asks once and reads the error."""
        return self.error(post(server, self.path, **self.body(server, **asked)))


def model_name(server: Server | LocalServer | str) -> str:
    """Returns the name of the served model; a name stands for itself."""
    if isinstance(server, str):
        return server
    return server.engine.model_name if isinstance(server, LocalServer) else "storyteller"


def parsed(arguments: str, is_cut: bool) -> object:
    """Parses a call's arguments; those of a call that was cut off need not be whole."""
    try:
        return json.loads(arguments)
    except ValueError:
        assert is_cut
        return None


def dotted(place: str | None) -> str:
    """Returns a field path of OpenAI's API, `a.[0].b`, as `a.0.b`."""
    return (place or "").replace("[", "").replace("]", "")


class OpenAIChatApi(ChatApi, ABC):
    """The error body and the client of both of OpenAI's chat APIs."""

    def error(self, response: httpx2.Response) -> Refusal:
        assert response.json().keys() == {"error"}
        error = response.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return Refusal(response.status_code, dotted(error["param"]), error["message"])


class ChatCompletionsApi(OpenAIChatApi):
    path, request = "/v1/chat/completions", ChatCompletionRequest
    turns, max_tokens = "messages", "max_completion_tokens"

    def written(self, turn: Turn) -> list[dict[str, object]]:
        if turn.results:
            return [
                {"role": "tool", "tool_call_id": call_id, "content": text}
                for call_id, text in turn.results.items()
            ]
        calls = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for call in turn.calls
        ]
        content = turn.text or None if calls else turn.text
        message: dict[str, object] = {"role": turn.role, "content": content}
        message |= {"reasoning_content": turn.thought} if turn.thought else {}
        return [message | ({"tool_calls": calls} if calls else {})]

    def tool(self, tool: Tool) -> dict[str, object]:
        schema = {} if tool.schema is None else {"parameters": tool.schema}
        return {"type": "function", "function": {"name": tool.name} | schema}

    def choice(self, choice: str | Tool | None, is_parallel: bool | None) -> dict[str, object]:
        named = {"type": "function", "function": {"name": getattr(choice, "name", None)}}
        fields = {"tool_choice": named if isinstance(choice, Tool) else choice}
        return without_none(fields | {"parallel_tool_calls": is_parallel})

    def thinking(self, is_enabled: bool) -> dict[str, object]:
        return {"enable_thinking": is_enabled}

    def read(self, answer: dict) -> Answer:
        (choice,) = answer["choices"]
        thought = _take_thought(choice["message"])
        assert_shape(ChatCompletion, answer)
        return self._read(choice, answer["usage"], thought)

    def _read(self, choice: dict, usage: dict, thought: str) -> Answer:
        is_cut = choice["finish_reason"] == "length"
        calls = [
            Call(
                call["function"]["name"],
                parsed(call["function"]["arguments"], is_cut),
                call["id"],
            )
            for call in choice["message"].get("tool_calls") or []
        ]
        text = choice["message"]["content"] or ""
        return Answer(
            text,
            calls,
            is_cut,
            usage["prompt_tokens"],
            usage["completion_tokens"],
            thought,
            usage["completion_tokens_details"]["reasoning_tokens"],
        )

    def stream(self, server: Server | LocalServer, **asked: object) -> Answer:
        return super().stream(server, **asked, stream_options={"include_usage": True})

    def read_stream(self, response: httpx2.Response) -> Answer:
        *events, last = parse_events(response.text)
        assert last == ("message", "[DONE]")
        *chunks, end = [json.loads(data) for _, data in events]
        thought = "".join(_take_thought(chunk["choices"][0]["delta"]) for chunk in chunks)
        for chunk in [*chunks, end]:
            assert_shape(ChatCompletionChunk, chunk)
        message: dict = {"content": "", "tool_calls": []}
        for chunk in chunks:
            (choice,) = chunk["choices"]
            message["content"] += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls", []):
                if "id" in call:
                    assert call["index"] == len(message["tool_calls"])
                    message["tool_calls"].append(call)
                else:
                    function = message["tool_calls"][call["index"]]["function"]
                    function["arguments"] += call["function"]["arguments"]
        return self._read(choice | {"message": message}, end["usage"], thought)

    def stream_by_client(self, server: Server | LocalServer, body: dict) -> Answer:
        options = {"stream_options": {"include_usage": True}}
        with (
            openai_client(server) as client,
            client.chat.completions.stream(**body, **options) as stream,
        ):
            final = stream.get_final_completion().to_dict()
        (choice,) = final["choices"]
        return self._read(choice, final["usage"], _take_thought(choice["message"]))

    async def last_event_by_async_client(self, server: Server, body: dict) -> str:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key=KEY) as client:
            stream = await client.chat.completions.create(**body, stream=True)
            reasons = [chunk.choices[0].finish_reason async for chunk in stream]
        return reasons[-1] or ""

    def create_by_client(self, server: Server | LocalServer, body: dict) -> None:
        with openai_client(server) as client:
            answer = client.chat.completions.create(**body)
            if body.get("stream"):
                list(answer)


def _take_thought(message: dict) -> str:
    """Removes both fields of the thought, which the client's types do not know."""
    thought = message.pop("reasoning_content", "")
    assert message.pop("reasoning", "") == thought
    return thought


class ResponsesApi(OpenAIChatApi):
    path, request = "/v1/responses", ResponseRequest
    turns, max_tokens = "input", "max_output_tokens"

    def written(self, turn: Turn) -> list[dict[str, object]]:
        said: list[dict[str, object]] = [{"role": turn.role, "content": turn.text}]
        calls: list[dict[str, object]] = [
            {
                "type": "function_call",
                "call_id": call.call_id,
                "name": call.name,
                "arguments": json.dumps(call.arguments),
            }
            for call in turn.calls
        ]
        results: list[dict[str, object]] = [
            {"type": "function_call_output", "call_id": call_id, "output": text}
            for call_id, text in turn.results.items()
        ]
        thought: list[dict[str, object]] = [
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": turn.thought}],
            }
        ]
        return (thought if turn.thought else []) + (said if turn.text else []) + calls + results

    def tool(self, tool: Tool) -> dict[str, object]:
        schema = {} if tool.schema is None else {"parameters": tool.schema}
        return {"type": "function", "name": tool.name} | schema

    def choice(self, choice: str | Tool | None, is_parallel: bool | None) -> dict[str, object]:
        named = {"type": "function", "name": getattr(choice, "name", None)}
        fields = {"tool_choice": named if isinstance(choice, Tool) else choice}
        return without_none(fields | {"parallel_tool_calls": is_parallel})

    def thinking(self, is_enabled: bool) -> dict[str, object]:
        return {"reasoning": {"effort": "medium" if is_enabled else "none", "summary": "auto"}}

    def read(self, answer: dict) -> Answer:
        assert_shape(Response, answer)
        return self._read(answer)

    def _read(self, answer: dict) -> Answer:
        is_cut = answer["status"] == "incomplete"
        calls = [
            Call(item["name"], parsed(item["arguments"], is_cut), item["call_id"])
            for item in answer["output"]
            if item["type"] == "function_call"
        ]
        texts = [item["content"] for item in answer["output"] if item["type"] == "message"]
        text = "".join(part["text"] for parts in texts for part in parts)
        thoughts = [item["content"] for item in answer["output"] if item["type"] == "reasoning"]
        usage = answer["usage"]
        return Answer(
            text,
            calls,
            is_cut,
            usage["input_tokens"],
            usage["output_tokens"],
            "".join(part["text"] for parts in thoughts for part in parts),
            usage["output_tokens_details"]["reasoning_tokens"],
        )

    def read_stream(self, response: httpx2.Response) -> Answer:
        adapter = TypeAdapter(ResponseStreamEvent)
        named = [(name, json.loads(data)) for name, data in parse_events(response.text)]
        deltas: dict[int, str] = {}
        for number, (name, event) in enumerate(named):
            assert_no_extras(adapter.validate_python(event, strict=True))
            assert (event["type"], event["sequence_number"]) == (name, number)
            if name.endswith(".delta"):
                index = event["output_index"]
                deltas[index] = deltas.get(index, "") + event["delta"]
        answer = event["response"]
        for index, item in enumerate(answer["output"]):
            whole = item["arguments"] if item["type"] == "function_call" else item["content"][0]
            assert deltas.get(index, "") == (whole if isinstance(whole, str) else whole["text"])
        return self._read(answer)

    def stream_by_client(self, server: Server | LocalServer, body: dict) -> Answer:
        with openai_client(server) as client, client.responses.stream(**body) as stream:
            return self._read(stream.get_final_response().to_dict())

    async def last_event_by_async_client(self, server: Server, body: dict) -> str:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key=KEY) as client:
            stream = await client.responses.create(**body, stream=True)
            kinds = [event.type async for event in stream]
        return kinds[-1]

    def create_by_client(self, server: Server | LocalServer, body: dict) -> None:
        with openai_client(server) as client:
            answer = client.responses.create(**body)
            if body.get("stream"):
                list(answer)


class MessagesApi(ChatApi):
    path, request = "/v1/messages", MessageRequest
    turns, max_tokens = "messages", "max_tokens"

    def written(self, turn: Turn) -> list[dict[str, object]]:
        blocks: list[dict[str, object]] = [
            {"type": "tool_use", "id": call.call_id, "name": call.name, "input": call.arguments}
            for call in turn.calls
        ]
        blocks += [
            {"type": "tool_result", "tool_use_id": call_id, "content": text}
            for call_id, text in turn.results.items()
        ]
        if not blocks and not turn.thought:
            return [{"role": turn.role, "content": turn.text}]
        said: list[dict[str, object]] = [{"type": "text", "text": turn.text}] if turn.text else []
        if turn.thought:
            said.insert(0, {"type": "thinking", "thinking": turn.thought, "signature": "s"})
        return [{"role": turn.role, "content": said + blocks}]

    def tool(self, tool: Tool) -> dict[str, object]:
        empty = {"type": "object", "maxProperties": 0}
        return {"name": tool.name, "input_schema": empty if tool.schema is None else tool.schema}

    def choice(self, choice: str | Tool | None, is_parallel: bool | None) -> dict[str, object]:
        if choice is None:
            return {}
        if isinstance(choice, Tool):
            fields: dict[str, object] = {"type": "tool", "name": choice.name}
        else:
            fields = {"type": "any" if choice == "required" else choice}
        if is_parallel is not None:
            fields["disable_parallel_tool_use"] = not is_parallel
        return {"tool_choice": fields}

    def thinking(self, is_enabled: bool) -> dict[str, object]:
        return {"thinking": {"type": "enabled" if is_enabled else "disabled"}}

    def read(self, answer: dict) -> Answer:
        assert_shape(Message, answer)
        return self._read(answer)

    def _read(self, answer: dict) -> Answer:
        calls = [
            Call(block["name"], block["input"], block["id"])
            for block in answer["content"]
            if block["type"] == "tool_use"
        ]
        text = "".join(block["text"] for block in answer["content"] if block["type"] == "text")
        usage = answer["usage"]
        return Answer(
            text,
            calls,
            answer["stop_reason"] in ("max_tokens", "model_context_window_exceeded"),
            usage["input_tokens"] + usage["cache_read_input_tokens"],
            usage["output_tokens"],
            "".join(
                block["thinking"] for block in answer["content"] if block["type"] == "thinking"
            ),
            (usage.get("output_tokens_details") or {"thinking_tokens": 0})["thinking_tokens"],
        )

    def read_stream(self, response: httpx2.Response) -> Answer:
        adapter = TypeAdapter(RawMessageStreamEvent)
        events = [(name, json.loads(data)) for name, data in parse_events(response.text)]
        message: dict = {}
        blocks: list[dict] = []
        for name, event in events:
            assert_no_extras(adapter.validate_python(event, strict=True))
            assert event["type"] == name
            if name == "message_start":
                message = event["message"]
            elif name == "content_block_start":
                assert event["index"] == len(blocks)
                blocks.append(event["content_block"] | {"json": ""})
            elif name == "content_block_delta":
                assert event["index"] == len(blocks) - 1
                blocks[-1]["json"] += event["delta"].get("partial_json", "")
                for key in ("text", "thinking", "signature"):
                    if key in event["delta"]:
                        blocks[-1][key] += event["delta"][key]
            elif name == "message_delta":
                message["stop_reason"] = event["delta"]["stop_reason"]
                message["usage"] |= event["usage"]
        is_cut = message["stop_reason"] == "max_tokens"
        for block in blocks:
            if block["type"] == "tool_use":
                assert block["input"] == {}
                block["input"] = parsed(block["json"], is_cut) or {}
        return self._read(message | {"content": blocks})

    def stream_by_client(self, server: Server | LocalServer, body: dict) -> Answer:
        # The client of today has no `temperature`.
        fields = {key: value for key, value in body.items() if key != "temperature"}
        extra = {"temperature": body["temperature"]}
        with (
            anthropic_client(server) as client,
            client.messages.stream(**fields, extra_body=extra) as stream,
        ):
            return self._read(stream.get_final_message().to_dict())

    async def last_event_by_async_client(self, server: Server, body: dict) -> str:
        fields = {key: value for key, value in body.items() if key != "temperature"}
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key=KEY) as client:
            stream = await client.messages.create(**fields, stream=True)
            kinds = [event.type async for event in stream]
        return kinds[-1]

    def create_by_client(self, server: Server | LocalServer, body: dict) -> None:
        fields = {key: value for key, value in body.items() if key != "temperature"}
        with anthropic_client(server) as client:
            answer = client.messages.create(**fields)
            if body.get("stream"):
                list(answer)

    def error(self, response: httpx2.Response) -> Refusal:
        body = response.json()
        assert body.keys() == {"type", "error", "request_id"}
        assert body["request_id"] == response.headers["request-id"]
        place, colon, _ = body["error"]["message"].partition(": ")
        place = place if colon and " " not in place else ""
        return Refusal(response.status_code, place, body["error"]["message"])


def without_none(fields: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in fields.items() if value is not None}


CHAT_APIS: list[ChatApi] = [ChatCompletionsApi(), ResponsesApi(), MessagesApi()]


def last_event(api: ChatApi, server: Server, body: dict) -> str:
    """Runs the asynchronous client; returns the kind of the last event of its stream."""
    return asyncio.run(api.last_event_by_async_client(server, body))
