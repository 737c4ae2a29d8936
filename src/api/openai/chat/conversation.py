"""A chat's messages as the engine reads them, if each result of a tool answers a call."""

from collections.abc import Sequence

from src.api.openai.chat.request import ChatTurn
from src.errors import FieldPath, InvalidRequestError
from src.text.chat_template import ChatMessage


def to_conversation(messages: Sequence[ChatTurn]) -> list[ChatMessage]:
    """Returns the conversation.

    Raises:
        InvalidRequestError: a message lacks something, or calls and results do not go together.
    """
    waiting: dict[str, str] = {}  # ids of calls that have no result yet, to names of their tools
    conversation = []
    for index, message in enumerate(messages):
        _check(message, ("messages", index), waiting)
        name = waiting.pop(message.tool_call_id, None) if message.tool_call_id else None
        calls = tuple(
            call.to_engine(("messages", index, "tool_calls", number))
            for number, call in enumerate(message.tool_calls or ())
        )
        waiting |= {call.call_id: call.name for call in calls}
        role = "system" if message.role == "developer" else message.role
        conversation.append(
            ChatMessage(role, message.content or "", calls, message.tool_call_id, name)
        )
    if waiting:
        raise InvalidRequestError(
            "The last calls have no results: each needs a message of the role tool.", ("messages",)
        )
    return conversation


def _check(message: ChatTurn, field: FieldPath, waiting: dict[str, str]) -> None:
    if message.role != "tool" and waiting:
        raise InvalidRequestError(
            "After calls come their results, one message of the role tool for each.",
            (*field, "role"),
        )
    if message.content is None and not message.tool_calls:
        raise InvalidRequestError("A message needs content.", (*field, "content"))
    if message.tool_calls and message.role != "assistant":
        raise InvalidRequestError("The assistant alone calls tools.", (*field, "tool_calls"))
    ids = [call.id for call in message.tool_calls or ()]
    if len(set(ids)) < len(ids):
        raise InvalidRequestError("Two calls have the same id.", (*field, "tool_calls"))
    if (message.role == "tool") != (message.tool_call_id is not None):
        raise InvalidRequestError(
            "Messages of the role tool, and no others, say which call they answer.",
            (*field, "tool_call_id"),
        )
    if message.tool_call_id is not None and message.tool_call_id not in waiting:
        raise InvalidRequestError(
            "The message of the assistant before has no call of this id that waits for a result.",
            (*field, "tool_call_id"),
        )
