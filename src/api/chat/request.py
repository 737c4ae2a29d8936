"""Interface of the wire models that `pipeline.py` accepts."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from src.api.chat.thinking import ThinkingOptions
from src.engine.structured_output.source import GrammarSource
from src.text.chat_template import ChatMessage, PromptEnd
from src.tool_calling.grammar import ToolChoice


class ConversationRequest(Protocol):
    """Wire model of a request that holds a conversation."""

    conversation_field: ClassVar[str]
    """Name of the field with the conversation, for errors."""

    @property
    def model(self) -> str | None: ...

    def check(self) -> None:
        """Raises InvalidRequestError if fields contradict each other."""

    def to_conversation(self) -> list[ChatMessage]:
        """Returns the messages; raises InvalidRequestError if calls and results do not match."""

    def to_tool_choice(self) -> ToolChoice | None:
        """Returns the tools that the answer may or must call; None for none.

        Raises:
            InvalidRequestError: the tools and the choice do not go together.
        """

    def prompt_end(self) -> PromptEnd:
        """Returns the end of the prompt."""

    def thinking_options(self) -> ThinkingOptions:
        """Returns the choices about thinking."""


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """Options of an answer that each API names in its own way.

    Args:
        max_tokens: maximum number of new tokens; None is what the prompt leaves of the context.
        max_tokens_field: name of the field with `max_tokens`, for errors.
        ends_at_context: lower `max_tokens` to what the prompt leaves of the context, instead of
            refusing.
        min_tokens: minimum number of new tokens.
        num_choices: answers to the conversation.
        num_logprobs: alternatives of each token; None wants no log-probabilities.
    """

    max_tokens: int | None
    max_tokens_field: str
    ends_at_context: bool = False
    min_tokens: int | None = None
    num_choices: int = 1
    num_logprobs: int | None = None


class ChatRequest(ConversationRequest, Protocol):
    """Wire model of a request for the answer to a conversation.

    Fields that APIs name alike, such as `temperature` and `seed`, are read by `sampling_params`.
    """

    def answer_schema(self) -> GrammarSource | None:
        """Returns the required format of answers that are not tool calls; None for any text.

        Raises:
            InvalidRequestError: several fields require a format, or a schema is not JSON.
        """

    def answer_options(self) -> AnswerOptions:
        """Returns the options."""
