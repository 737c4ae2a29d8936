"""Requests of `/v1/messages` and `/v1/messages/count_tokens`, as they are on the wire."""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)
from pydantic_core import PydanticCustomError

from src.api.openai.fields import MAX_TOKENS, NoEffect, OpenAIRequest, Refused
from src.engine.chat_template import ChatMessage
from src.engine.grammar import GrammarSource, schema_source
from src.errors import InvalidRequestError
from src.models import StopText

MAX_MESSAGES = 2048
CACHED = "common beginnings of prompts are found without it"
TOOLS = "the served models call no tools"


class CacheControl(OpenAIRequest):
    """A mark where a prompt may be cached."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(OpenAIRequest):
    """A piece of a message's text."""

    type: Literal["text"]
    text: StrictStr
    cache_control: Annotated[CacheControl | None, NoEffect(CACHED)] = None
    citations: Annotated[None, Refused("nothing is cited")] = None


def _only_text(content: object) -> object:
    """Refuses other blocks than text by name; a text is one block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    for index, block in enumerate(content if isinstance(content, list) else ()):
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise PydanticCustomError(
                "unsupported_parameter",
                "Block {index} is of type {kind}, and this model reads text alone",
                {"index": index, "kind": kind[:40].encode("utf-8", "replace").decode()},
            )
    return content


Content = Annotated[
    list[TextBlock],
    BeforeValidator(_only_text, json_schema_input_type=StrictStr | list[TextBlock]),
]


class InputMessage(OpenAIRequest):
    """One turn of the conversation."""

    role: Literal["user", "assistant", "system"] = Field(description="Who speaks.")
    content: Content = Field(description="What is said: a text, or blocks of text.")


class Thinking(OpenAIRequest):
    """Whether the model thinks before it answers."""

    type: Literal["disabled"]


class OutputFormat(OpenAIRequest):
    """How the answer is written."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema", description="What the answer's JSON is.")


class OutputConfig(OpenAIRequest):
    """What the answer is like."""

    format: OutputFormat | None = Field(default=None, description="How the answer is written.")
    effort: Annotated[None, Refused("the served models take the same with each answer")] = None


class Metadata(OpenAIRequest):
    """What is known of the request."""

    user_id: Annotated[StrictStr | None, NoEffect("users are not told apart by it")] = None


class CountTokensRequest(OpenAIRequest):
    """A conversation whose tokens are to be counted. Null is what leaving out is."""

    model: StrictStr = Field(description="The served model, as /v1/models names it.")
    messages: list[InputMessage] = Field(
        min_length=1,
        max_length=MAX_MESSAGES,
        description="The conversation so far; its last turn is not the assistant's.",
    )
    system: Content | None = Field(
        default=None, description="What comes before: a text, or blocks of text."
    )
    thinking: Annotated[Thinking | None, NoEffect("only disabled is accepted, and so it is")] = None
    cache_control: Annotated[CacheControl | None, NoEffect(CACHED)] = None
    tools: Annotated[None, Refused(TOOLS)] = None
    tool_choice: Annotated[None, Refused(TOOLS)] = None
    output_config: OutputConfig | None = Field(
        default=None, description="What the answer is like: text, or JSON that a schema allows."
    )
    mcp_servers: Annotated[None, Refused(TOOLS)] = None
    context_management: Annotated[None, Refused("conversations are read as they are sent")] = None
    speed: Annotated[Literal["standard"] | None, NoEffect("there is one speed")] = None
    user_profile_id: Annotated[None, Refused("users are not told apart")] = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "storyteller",
                    "messages": [{"role": "user", "content": "What is the capital of France?"}],
                }
            ]
        }
    )

    def check(self) -> None:
        """Raises InvalidRequestError if the assistant was to go on with what it is said to say."""
        if self.messages[-1].role == "assistant":
            raise InvalidRequestError(
                "The last turn is the assistant's, and answers do not continue one here: end with"
                " the user's.",
                ("messages", len(self.messages) - 1, "role"),
            )

    def to_engine(self) -> list[ChatMessage]:
        """The conversation; turns of the same speaker that follow one another are one."""
        turns = [("system", self.system)] if self.system else []
        turns += [(message.role, message.content) for message in self.messages]
        joined: list[tuple[str, list[TextBlock]]] = []
        for role, blocks in turns:
            if joined and joined[-1][0] == role:
                joined[-1][1].extend(blocks)
            else:
                joined.append((role, list(blocks)))
        return [
            ChatMessage(role, "\n".join(block.text for block in blocks)) for role, blocks in joined
        ]


class MessageRequest(CountTokensRequest):
    """A conversation to answer."""

    max_tokens: StrictInt = Field(
        ge=1,
        le=MAX_TOKENS,
        description="New tokens at most; an answer that fills the context before ends there.",
    )
    temperature: StrictFloat | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Randomness: 0 always takes the most likely token. Default: 1.",
    )
    top_p: StrictFloat | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Only the most likely tokens whose probabilities add up to this. Default: 1.",
    )
    top_k: StrictInt | None = Field(
        default=None, ge=0, le=MAX_TOKENS, description="Only so many of the most likely tokens."
    )
    stop_sequences: list[StopText] | None = Field(
        default=None,
        max_length=16,
        description="Texts that end the answer and are left out.",
    )
    stream: StrictBool | None = Field(
        default=None, description="Send events as the answer is made, as Server-Sent Events."
    )
    metadata: Annotated[Metadata | None, NoEffect("users are not told apart by it")] = None
    service_tier: Annotated[
        Literal["auto", "standard_only"] | None, NoEffect("there is one tier")
    ] = None
    container: Annotated[None, Refused("no code is run")] = None
    diagnostics: Annotated[None, Refused("earlier requests are not remembered")] = None
    inference_geo: Annotated[None, Refused("the server is where it is")] = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "storyteller",
                    "max_tokens": 20,
                    "temperature": 0,
                    "messages": [{"role": "user", "content": "What is the capital of France?"}],
                }
            ]
        }
    )

    def grammar(self) -> GrammarSource | None:
        """What the answer must look like; None is any text."""
        if self.output_config is None or self.output_config.format is None:
            return None
        schema = self.output_config.format.json_schema
        return schema_source(schema, ("output_config", "format", "schema"))

    def check(self) -> None:
        """Raises InvalidRequestError if fields do not go together."""
        super().check()
        if self.stop_sequences and self.grammar() is not None:
            raise InvalidRequestError(
                "They do not go with structured output, whose shape says where it ends: leave them"
                " out.",
                ("stop_sequences",),
            )

    @property
    def stop(self) -> list[Any] | None:
        """The common name of the same."""
        return self.stop_sequences
