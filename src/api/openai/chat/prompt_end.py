"""Fields of chats and of `/tokenize` that say how the prompt ends."""

from typing import Annotated, Any, Protocol

from pydantic import Field, StrictBool

from src.errors import InvalidRequestError
from src.text.chat_template import PromptEnd

PROMPT_ENDS = ("add_generation_prompt", "continue_final_message")
AddGenerationPrompt = Annotated[
    StrictBool | None,
    Field(
        description="Extension: end the prompt with the beginning of the assistant's turn. Default:"
        " true, without `continue_final_message`."
    ),
]
ContinueFinalMessage = Annotated[
    StrictBool | None,
    Field(
        description="Extension: the last message is the assistant's, and the answer continues its"
        " text, which the answer does not repeat."
    ),
]


class HasPromptEnd(Protocol):
    """Wire model with these fields."""

    @property
    def add_generation_prompt(self) -> bool | None: ...
    @property
    def continue_final_message(self) -> bool | None: ...
    @property
    def messages(self) -> list[Any] | None: ...


def check_prompt_end(body: HasPromptEnd) -> None:
    """Raises InvalidRequestError if the fields contradict each other or the conversation."""
    if not body.continue_final_message:
        return
    if body.add_generation_prompt:
        raise InvalidRequestError(
            "It cannot be combined with add_generation_prompt: the answer either continues the last"
            " message or begins a new one.",
            ("continue_final_message",),
        )
    last = body.messages[-1] if body.messages else None
    if last is not None and (last.role != "assistant" or not last.content or last.tool_calls):
        raise InvalidRequestError(
            "It needs a last message of the assistant with a text, and without tool calls.",
            ("continue_final_message",),
        )


def prompt_end(body: HasPromptEnd) -> PromptEnd:
    """Returns the end of the prompt that a valid request asks for."""
    if body.continue_final_message:
        return PromptEnd.LAST_TEXT
    return PromptEnd.LAST_TURN if body.add_generation_prompt is False else PromptEnd.ANSWER_HEAD
