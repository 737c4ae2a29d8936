"""Short ids of tool calls, as Mistral's chat templates demand them: nine letters or digits."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

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
