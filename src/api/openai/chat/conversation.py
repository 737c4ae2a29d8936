"""Conversion of a chat's messages for the chat template, with checks of calls and results."""

from collections.abc import Sequence

from src.api.openai.chat.messages import ChatTurn
from src.errors import FieldPath, InvalidRequestError
from src.text.chat_template import ChatMessage


def to_conversation(messages: Sequence[ChatTurn]) -> list[ChatMessage]:
    """Returns the conversation.

    Raises:
        InvalidRequestError: a message is incomplete, or calls and results do not match.
    """
    pending: dict[str, str] = {}  # ids of calls without a result to names of their tools
    conversation = []
    for index, message in enumerate(messages):
        _check(message, ("messages", index), pending)
        name = pending.pop(message.tool_call_id, None) if message.tool_call_id else None
        calls = tuple(
            call.to_engine(("messages", index, "tool_calls", number))
            for number, call in enumerate(message.tool_calls or ())
        )
        pending |= {call.call_id: call.name for call in calls}
        role = "system" if message.role == "developer" else message.role
        conversation.append(
            ChatMessage(
                role, message.content or "", calls, message.tool_call_id, name, message.thought
            )
        )
    if pending:
        raise InvalidRequestError(
            "The last calls have no results: each needs a message of the role tool.", ("messages",)
        )
    return conversation


def _check(message: ChatTurn, field: FieldPath, pending: dict[str, str]) -> None:
    if message.role != "tool" and pending:
        raise InvalidRequestError(
            "After calls come their results, one message of the role tool for each.",
            (*field, "role"),
        )
    if message.content is None and not message.tool_calls and message.thought is None:
        raise InvalidRequestError("A message needs content.", (*field, "content"))
    if message.role != "assistant":
        _check_not_assistant(message, field)
    ids = [call.id for call in message.tool_calls or ()]
    if len(set(ids)) < len(ids):
        raise InvalidRequestError("Two calls have the same id.", (*field, "tool_calls"))
    if (message.role == "tool") != (message.tool_call_id is not None):
        raise InvalidRequestError(
            "Messages of the role tool, and no others, say which call they answer.",
            (*field, "tool_call_id"),
        )
    if message.tool_call_id is not None and message.tool_call_id not in pending:
        raise InvalidRequestError(
            "The message of the assistant before has no call of this id that waits for a result.",
            (*field, "tool_call_id"),
        )


def _check_not_assistant(message: ChatTurn, field: FieldPath) -> None:
    if message.tool_calls:
        raise InvalidRequestError("Only the assistant may call tools.", (*field, "tool_calls"))
    for name in ("reasoning_content", "reasoning"):
        if getattr(message, name):
            raise InvalidRequestError("Only the assistant thinks.", (*field, name))
