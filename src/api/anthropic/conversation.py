"""Conversion of messages for the chat template, with checks of calls and results."""

from collections.abc import Iterator, Sequence

from src.api.anthropic.blocks import (
    MessageTurn,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    text_of,
    thought_of,
)
from src.errors import FieldPath, InvalidRequestError
from src.text.chat_template import ChatMessage, MessageToolCall


def to_conversation(
    system: Sequence[TextBlock] | None, messages: Sequence[MessageTurn]
) -> list[ChatMessage]:
    """Returns the conversation; consecutive turns of the same role are joined.

    Raises:
        InvalidRequestError: calls and results do not match.
    """
    turns = [ChatMessage("system", text_of(system))] if system else []
    pending: dict[str, str] = {}  # ids of calls without a result to names of their tools
    for index, message in enumerate(messages):
        for turn in _turns(message, ("messages", index), pending):
            if turns and _is_same_turn(turns[-1], turn):
                turns[-1] = _joined(turns[-1], turn)
            else:
                turns.append(turn)
    if pending:
        raise InvalidRequestError(
            "The last calls have no results: each needs a tool_result.", ("messages",)
        )
    return turns


def _turns(
    message: MessageTurn, field: FieldPath, pending: dict[str, str]
) -> Iterator[ChatMessage]:
    """Yields the turns of a message; tool results come before the user's text."""
    calls: dict[str, MessageToolCall] = {}
    for index, block in enumerate(message.content):
        place = (*field, "content", index)
        if isinstance(block, ToolResultBlock):
            yield _result(message, block, place, pending)
        elif isinstance(block, ToolUseBlock):
            if message.role != "assistant" or block.id in calls:
                raise InvalidRequestError(
                    "The assistant alone calls tools, each call with an id of its own.", place
                )
            calls[block.id] = MessageToolCall(block.id, block.name, block.input)
        elif message.role != "assistant" and not isinstance(block, TextBlock):
            raise InvalidRequestError("Only the assistant thinks.", place)
    if pending:
        raise InvalidRequestError(
            "After calls come their results, a tool_result for each in the next message.",
            (*field, "content"),
        )
    pending |= {call.call_id: call.name for call in calls.values()}
    has_other = any(not isinstance(block, ToolResultBlock) for block in message.content)
    if has_other or not message.content:
        yield ChatMessage(
            message.role,
            text_of(message.content),
            tuple(calls.values()),
            reasoning=thought_of(message.content),
        )


def _result(
    message: MessageTurn, block: ToolResultBlock, field: FieldPath, pending: dict[str, str]
) -> ChatMessage:
    if message.role != "user" or block.tool_use_id not in pending:
        raise InvalidRequestError(
            "The assistant's message before has no call of this id that waits for a result.",
            (*field, "tool_use_id"),
        )
    name = pending.pop(block.tool_use_id)
    content = text_of(block.content)
    return ChatMessage("tool", content, tool_call_id=block.tool_use_id, name=name)


def _is_same_turn(last: ChatMessage, following: ChatMessage) -> bool:
    return last.role == following.role != "tool" and not last.tool_calls


def _joined(last: ChatMessage, following: ChatMessage) -> ChatMessage:
    thoughts = [turn.reasoning for turn in (last, following) if turn.reasoning]
    content = "\n".join(text for text in (last.content, following.content) if text or not thoughts)
    return ChatMessage(
        last.role, content, following.tool_calls, reasoning="\n".join(thoughts) or None
    )
