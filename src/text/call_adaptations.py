"""Adaptations of tool calls to the demands of chat templates.

Mistral's demand ids of nine letters or digits, DeepSeek's demand arguments as JSON texts.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.text.chat_template import ChatMessage

SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")
SHORT_ID_LENGTH = 9


def with_short_ids(messages: Sequence["ChatMessage"]) -> list["ChatMessage"]:
    """Returns the conversation with short ids; a call and its result keep the same id.

    A longer id becomes the first hexadecimal digits of its SHA-256, so that a conversation always
    renders alike and its prefix stays cached.
    """
    return [
        replace(
            message,
            tool_calls=tuple(
                replace(call, call_id=short_id(call.call_id)) for call in message.tool_calls
            ),
            tool_call_id=None if message.tool_call_id is None else short_id(message.tool_call_id),
        )
        for message in messages
    ]


def short_id(call_id: str) -> str:
    """Returns the id itself if it is short, else a hash of it."""
    if SHORT_ID.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:SHORT_ID_LENGTH]


def with_text_arguments(messages: Sequence["ChatMessage"]) -> list["ChatMessage"]:
    """Returns the conversation with the arguments of calls as JSON texts."""
    return [
        replace(
            message,
            tool_calls=tuple(
                replace(call, arguments=_to_text(call.arguments)) for call in message.tool_calls
            ),
        )
        for message in messages
    ]


def _to_text(arguments: dict[str, Any] | str) -> str:
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False)


Adaptation = Callable[[Sequence["ChatMessage"]], list["ChatMessage"]]

ADAPTATIONS: tuple[Adaptation, ...] = (
    list,
    with_short_ids,
    with_text_arguments,
    lambda messages: with_short_ids(with_text_arguments(messages)),
)
"""Adaptations in the order in which they are tried; the first changes nothing."""
