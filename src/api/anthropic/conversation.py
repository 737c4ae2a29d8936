"""Messages as the engine reads them, if each result of a tool answers a call."""

from collections.abc import Iterator

from src.api.anthropic.blocks import TextBlock, ToolResultBlock, ToolUseBlock, text_of
from src.api.anthropic.request import CountTokensRequest, MessageTurn
from src.errors import FieldPath, InvalidRequestError
from src.text.chat_template import ChatMessage, MessageToolCall


def to_conversation(body: CountTokensRequest) -> list[ChatMessage]:
    """Returns the conversation; turns of the same speaker that follow one another are one.

    Raises:
        InvalidRequestError: calls and results do not go together.
    """
    turns = [ChatMessage("system", text_of(body.system))] if body.system else []
    waiting: dict[str, str] = {}  # ids of calls that have no result yet, to names of their tools
    for index, message in enumerate(body.messages):
        for turn in _turns(message, ("messages", index), waiting):
            if turns and _is_same_speaker(turns[-1], turn):
                turns[-1] = _joined(turns[-1], turn)
            else:
                turns.append(turn)
    if waiting:
        raise InvalidRequestError(
            "The last calls have no results: each needs a tool_result.", ("messages",)
        )
    return turns


def _turns(
    message: MessageTurn, field: FieldPath, waiting: dict[str, str]
) -> Iterator[ChatMessage]:
    """A message's turns: results of tools come before what else the user says."""
    calls: dict[str, MessageToolCall] = {}
    for index, block in enumerate(message.content):
        place = (*field, "content", index)
        if isinstance(block, ToolResultBlock):
            yield _result(message, block, place, waiting)
        elif isinstance(block, ToolUseBlock):
            if message.role != "assistant" or block.id in calls:
                raise InvalidRequestError(
                    "The assistant alone calls tools, each call with an id of its own.", place
                )
            calls[block.id] = MessageToolCall(block.id, block.name, block.input)
    if waiting:
        raise InvalidRequestError(
            "After calls come their results, a tool_result for each in the next message.",
            (*field, "content"),
        )
    waiting |= {call.call_id: call.name for call in calls.values()}
    if calls or not message.content or any(isinstance(one, TextBlock) for one in message.content):
        yield ChatMessage(message.role, text_of(message.content), tuple(calls.values()))


def _result(
    message: MessageTurn, block: ToolResultBlock, field: FieldPath, waiting: dict[str, str]
) -> ChatMessage:
    if message.role != "user" or block.tool_use_id not in waiting:
        raise InvalidRequestError(
            "The assistant's message before has no call of this id that waits for a result.",
            (*field, "tool_use_id"),
        )
    name = waiting.pop(block.tool_use_id)
    content = text_of(block.content)
    return ChatMessage("tool", content, tool_call_id=block.tool_use_id, name=name)


def _is_same_speaker(one: ChatMessage, other: ChatMessage) -> bool:
    return one.role == other.role != "tool" and not one.tool_calls


def _joined(one: ChatMessage, other: ChatMessage) -> ChatMessage:
    return ChatMessage(one.role, f"{one.content}\n{other.content}", other.tool_calls)
