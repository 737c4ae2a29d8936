"""Conversion of a response's input for the chat template, with checks of calls and results."""

from collections.abc import Sequence
from dataclasses import replace

from src.api.openai.responses.items import (
    FunctionCallItem,
    FunctionOutputItem,
    Item,
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
    for index, item in enumerate(items):
        field = ("input", index)
        if isinstance(item, FunctionCallItem):
            call = item.to_engine(field)
            if call.call_id in pending:
                raise InvalidRequestError("Two calls have the same id.", (*field, "call_id"))
            if not turns or turns[-1].role != "assistant":
                turns.append(ChatMessage("assistant", ""))
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
            turns.append(item.to_engine())
    if pending:
        raise InvalidRequestError(
            "The last calls have no results: each needs a function_call_output.", ("input",)
        )
    return turns
