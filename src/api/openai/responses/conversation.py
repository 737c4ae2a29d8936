"""Conversion of a response's input for the chat template, with checks of calls and results."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from src.api.openai.responses.items import (
    FunctionCallItem,
    FunctionOutputItem,
    Item,
    ReasoningItem,
    ResponseInputMessage,
    text_of,
)
from src.errors import InvalidRequestError
from src.text.chat_template import ChatMessage


def to_conversation(instructions: str | None, items: Sequence[Item]) -> list[ChatMessage]:
    """Returns the conversation; consecutive calls join the assistant's text before them.

    Raises:
        InvalidRequestError: calls and results do not match.
    """
    turns = [] if instructions is None else [ChatMessage("system", instructions)]
    pending: dict[str, str] = {}  # ids of calls without a result to names of their tools
    for index, item, thought in _with_thoughts(items):
        field = ("input", index)
        if isinstance(item, FunctionCallItem):
            call = item.to_engine(field)
            if call.call_id in pending:
                raise InvalidRequestError("Two calls have the same id.", (*field, "call_id"))
            if thought or not turns or turns[-1].role != "assistant":
                turns.append(ChatMessage("assistant", "", reasoning=thought))
            turns[-1] = replace(turns[-1], tool_calls=(*turns[-1].tool_calls, call))
            pending[call.call_id] = call.name
        elif isinstance(item, FunctionOutputItem):
            if item.call_id not in pending:
                raise InvalidRequestError(
                    "No call of this id waits for a result.", (*field, "call_id")
                )
            name = pending.pop(item.call_id)
            turns.append(
                ChatMessage("tool", text_of(item.output), tool_call_id=item.call_id, name=name)
            )
        elif pending:
            raise InvalidRequestError(
                "After calls come their results, a function_call_output for each.", field
            )
        else:
            turn = item.to_engine()
            is_answer = turn.role == "assistant"
            turns.append(replace(turn, reasoning=thought) if is_answer else turn)
    if pending:
        raise InvalidRequestError(
            "The last calls have no results: each needs a function_call_output.", ("input",)
        )
    return turns


def _with_thoughts(
    items: Sequence[Item],
) -> Iterator[tuple[int, ResponseInputMessage | FunctionCallItem | FunctionOutputItem, str | None]]:
    """Yields each other item with its index and the thoughts right before it; None without one."""
    thoughts: list[str] = []
    for index, item in enumerate(items):
        if isinstance(item, ReasoningItem):
            thoughts += [text] if (text := item.to_engine()) else []
        else:
            yield index, item, "\n".join(thoughts) or None
            thoughts = []
