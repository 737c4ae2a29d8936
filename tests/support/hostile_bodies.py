"""Bodies that cost a server much: every field that can be large, in every route."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

SIZE = 1_900_000
"""Bytes of a hostile body; MAX_BODY_BYTES are a few more."""

MODEL = "storyteller"
GENERATE, BATCH = "/generate", "/generate/batch"
TEXTS, CHATS = "/v1/completions", "/v1/chat/completions"
RESPONSES, EMBEDDINGS, MESSAGES = "/v1/responses", "/v1/embeddings", "/v1/messages"
COUNT, TOKENIZE, DETOKENIZE = "/v1/messages/count_tokens", "/tokenize", "/detokenize"

Body = dict[str, Any]
SAID = [{"role": "user", "content": "the"}]
USUAL: dict[str, Body] = {
    GENERATE: {"prompt": "the", "max_length": 1},
    BATCH: {"prompts": ["the"], "max_length": 1},
    TEXTS: {"model": MODEL, "prompt": "the", "max_tokens": 1},
    CHATS: {"model": MODEL, "messages": SAID, "max_tokens": 1},
    RESPONSES: {"model": MODEL, "input": "the", "max_output_tokens": 1},
    EMBEDDINGS: {"model": MODEL, "input": "the"},
    MESSAGES: {"model": MODEL, "messages": SAID, "max_tokens": 1},
    COUNT: {"model": MODEL, "messages": SAID},
    TOKENIZE: {"prompt": "the"},
    DETOKENIZE: {"tokens": [5]},
}


@dataclass(frozen=True)
class Hostile:
    """A request.

    Args:
        path: of the route.
        name: of the case.
        make: the fields beside the usual ones.
    """

    path: str
    name: str
    make: Callable[[], Body] = field(repr=False)

    def body(self) -> bytes:
        return json.dumps(USUAL[self.path] | self.make(), ensure_ascii=False).encode()

    def __str__(self) -> str:
        return f"{self.path.strip('/')} {self.name}"


def many(item: object, size: int = SIZE) -> list[Any]:
    """So many of an item that they take `size` bytes."""
    return [item] * (size // (len(json.dumps(item)) + 2))


def keys(value: object, size: int = SIZE) -> Body:
    """An object with as many keys."""
    return {str(number): value for number in range(size // (len(json.dumps(value)) + 12))}


def deep(inner: object, levels: int = 400) -> Body:
    for _ in range(levels):
        inner = {"a": inner}
    return {"a": inner}


def wide_schema(size: int = SIZE) -> Body:
    return {"type": "object", "properties": keys({"type": "object", "properties": {}}, size)}


def tools(schema: object) -> list[Body]:
    return [{"type": "function", "function": {"name": "a", "parameters": schema}}]


def shape(schema: object) -> Body:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def call(call_id: str, arguments: str = "{}") -> Body:
    return {"id": call_id, "type": "function", "function": {"name": "a", "arguments": arguments}}


def conversation_of_calls(count: int) -> list[Body]:
    """Turns of 128 calls each, and the calls' results."""
    ids = [str(number) for number in range(128)]
    turn = {"role": "assistant", "tool_calls": [call(call_id) for call_id in ids]}
    results = [{"role": "tool", "tool_call_id": call_id, "content": "a"} for call_id in ids]
    return [turn, *results] * (count // 128) + SAID


def all_bodies() -> list[Hostile]:
    makers = (_lists, _objects, _texts, _conversations, _schemas, _answers)
    return [hostile for make in makers for hostile in make()]


def _said(content: object) -> list[Body]:
    return [{"role": "user", "content": content}]


def _lists() -> Iterator[Hostile]:
    places: list[tuple[str, str, Callable[[Any], Any]]] = [
        (DETOKENIZE, "tokens", lambda items: items),
        (TEXTS, "prompt", lambda items: items),
        (TEXTS, "prompt", lambda items: [items]),
        (TEXTS, "guided_choice", lambda items: items),
        (TEXTS, "stop", lambda items: items),
        (TEXTS, "unknown", lambda items: items),
        (GENERATE, "structured_outputs", lambda items: {"choice": items}),
        (GENERATE, "stop_token_ids", lambda items: items),
        (BATCH, "prompts", lambda items: items),
        (CHATS, "messages", lambda items: items),
        (CHATS, "messages", _said),
        (CHATS, "tools", lambda items: items),
        (CHATS, "modalities", lambda items: items),
        (RESPONSES, "input", lambda items: items),
        (RESPONSES, "input", _said),
        (RESPONSES, "include", lambda items: items),
        (EMBEDDINGS, "input", lambda items: items),
        (MESSAGES, "messages", lambda items: items),
        (MESSAGES, "system", lambda items: items),
        (MESSAGES, "stop_sequences", lambda items: items),
        (COUNT, "tools", lambda items: items),
        (TOKENIZE, "messages", lambda items: items),
    ]
    for number, (path, name, wrap) in enumerate(places):
        for item in (None, "ab", []):
            yield Hostile(
                path,
                f"{name} {number} of {json.dumps(item)}",
                lambda name=name, wrap=wrap, item=item: {name: wrap(many(item))},
            )
    for item in (0, -1, 123456):
        for path, name in ((DETOKENIZE, "tokens"), (TEXTS, "prompt"), (EMBEDDINGS, "input")):
            yield Hostile(
                path, f"{name} of {item}", lambda name=name, item=item: {name: many(item)}
            )
    yield Hostile(GENERATE, "prompt of floats", lambda: {"prompt": many(0.5)})
    yield Hostile(EMBEDDINGS, "2048 inputs", lambda: {"input": ["the"] * 2048})


def _objects() -> Iterator[Hostile]:
    for value in (None, 0):
        for path, name in (
            (GENERATE, "logit_bias"),
            (CHATS, "metadata"),
            (RESPONSES, "metadata"),
            (RESPONSES, "tool_choice"),
            (GENERATE, "structured_outputs"),
        ):
            yield Hostile(
                path, f"{name} of {value}", lambda name=name, value=value: {name: keys(value)}
            )
        yield Hostile(TOKENIZE, f"fields of {value}", lambda value=value: keys(value))


def _texts() -> Iterator[Hostile]:
    places: list[tuple[str, str, Callable[[str], Any]]] = [
        (GENERATE, "prompt", lambda text: text),
        (TEXTS, "model", lambda text: text),
        (TEXTS, "guided_regex", lambda text: text),
        (TEXTS, "guided_grammar", lambda text: text),
        (TEXTS, "guided_json", lambda text: text),
        (TEXTS, "stop", lambda text: text),
        (TEXTS, "user", lambda text: text),
        (CHATS, "messages", _said),
        (CHATS, "tool_choice", lambda text: text),
        (RESPONSES, "instructions", lambda text: text),
        (RESPONSES, "user", lambda text: text),
        (EMBEDDINGS, "input", lambda text: text),
        (MESSAGES, "system", lambda text: text),
        (TOKENIZE, "prompt", lambda text: text),
    ]
    for kind, text in (("long", "a" * SIZE), ("odd", "\u2028\\" * (SIZE // 5))):
        for path, name, wrap in places:
            yield Hostile(
                path,
                f"{kind} {name}",
                lambda name=name, wrap=wrap, text=text: {name: wrap(text)},
            )


def _conversations() -> Iterator[Hostile]:
    def parts() -> list[Body]:
        return many({"type": "text", "text": ""})

    def arguments() -> list[Body]:
        called = call("a", json.dumps(keys(0, SIZE // 2)))
        result = {"role": "tool", "tool_call_id": "a", "content": "a"}
        return [{"role": "assistant", "tool_calls": [called]}, result, *SAID]

    def sent_back() -> list[Body]:
        part = {"type": "output_text", "text": "a", "logprobs": many([], SIZE // 2)}
        return [{"role": "assistant", "content": [part]}, *SAID]

    def used() -> list[Body]:
        use = {"type": "tool_use", "id": "a", "name": "a", "input": keys(0)}
        result = {"type": "tool_result", "tool_use_id": "a", "content": "a"}
        return [
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ]

    yield Hostile(CHATS, "parts", lambda: {"messages": _said(parts())})
    yield Hostile(CHATS, "2048 turns", lambda: {"messages": _said("a") * 2048})
    yield Hostile(CHATS, "turns of parts", lambda: {"messages": _said(parts()[:18]) * 2048})
    yield Hostile(CHATS, "calls", lambda: {"messages": conversation_of_calls(1900)})
    yield Hostile(CHATS, "too many calls", lambda: {"messages": conversation_of_calls(12000)})
    yield Hostile(CHATS, "arguments", lambda: {"messages": arguments()})
    yield Hostile(RESPONSES, "sent back", lambda: {"input": sent_back()})
    yield Hostile(MESSAGES, "input", lambda: {"messages": used()})


def _schemas() -> Iterator[Hostile]:
    def echoed() -> Body:
        tool = {"type": "function", "name": "a", "parameters": wide_schema()}
        return {"tools": [tool], "tool_choice": "none"}

    yield Hostile(CHATS, "wide tool", lambda: {"tools": tools(wide_schema())})
    yield Hostile(
        CHATS, "wide tool unused", lambda: {"tools": tools(wide_schema()), "tool_choice": "none"}
    )
    yield Hostile(CHATS, "128 tools", lambda: {"tools": tools(wide_schema(SIZE // 140)) * 128})
    yield Hostile(CHATS, "deep tool", lambda: {"tools": tools(deep(many(0)))})
    yield Hostile(CHATS, "wide schema", lambda: {"response_format": shape(wide_schema())})
    yield Hostile(
        CHATS, "schema to compile", lambda: {"response_format": shape(wide_schema(240_000))}
    )
    yield Hostile(TEXTS, "lists in schema", lambda: {"guided_json": {"enum": many([], SIZE // 4)}})
    yield Hostile(
        TEXTS, "schema as text", lambda: {"guided_json": json.dumps({"enum": many(0, SIZE // 2)})}
    )
    yield Hostile(TEXTS, "choices", lambda: {"guided_choice": list(map(str, range(60_000)))})
    yield Hostile(RESPONSES, "wide tool", echoed)
    yield Hostile(RESPONSES, "wide tool streamed", lambda: echoed() | {"stream": True})
    yield Hostile(MESSAGES, "wide tool", lambda: {"tools": [_tool(wide_schema())]})
    yield Hostile(COUNT, "wide tool", lambda: {"tools": [_tool(wide_schema())]})


def _tool(schema: Body) -> Body:
    return {"name": "a", "input_schema": schema}


def _answers() -> Iterator[Hostile]:
    """Small bodies, large answers."""
    told = {"logprobs": True, "top_logprobs": 20}
    included = {"include": ["message.output_text.logprobs"], "top_logprobs": 20}
    echo = {"prompt": [[5] * 250] * 64, "echo": True, "logprobs": 20}
    for is_stream in (False, True):
        stream = {"stream": is_stream}
        name = "streamed" if is_stream else "whole"
        cases: list[tuple[str, str, Body]] = [
            (CHATS, "n", {"n": 128, "max_tokens": 100, "ignore_eos": True}),
            (CHATS, "n with logprobs", {"n": 128, "max_tokens": 50} | told),
            (TEXTS, "n with logprobs", {"n": 128, "max_tokens": 50, "logprobs": 20}),
            (TEXTS, "echo", echo),
            (RESPONSES, "logprobs", {"max_output_tokens": 200} | included),
            (GENERATE, "prompt", {"prompt": "the cat " * 100, "prompt_logprobs": 20}),
        ]
        for path, kind, fields in cases:
            yield Hostile(
                path, f"{kind} {name}", lambda fields=fields, stream=stream: fields | stream
            )
    prompts = {"prompts": ["the cat " * 50] * 32, "prompt_logprobs": 20}
    yield Hostile(BATCH, "prompts with logprobs", lambda: prompts | {"num_return_sequences": 4})
