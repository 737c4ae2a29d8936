"""Requests of `/v1/messages` and `/v1/messages/count_tokens`, as they are on the wire."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from src.api.anthropic.blocks import CACHED, CacheControl, MessageTurn, TextContent
from src.api.anthropic.conversation import to_conversation
from src.api.chat_pipeline import AnswerOptions
from src.api.field_types import Count, NumTokens, StopTextList
from src.api.fields import (
    MAX_MESSAGES,
    MAX_TOOLS,
    RANDOMNESS,
    FunctionName,
    ModelName,
    NoEffect,
    Refused,
    StrictTool,
    ToolDescription,
    TopPField,
    WireRequest,
)
from src.engine.structured_output.source import GrammarSource, schema_source
from src.errors import InvalidRequestError
from src.text.chat_template import ChatMessage
from src.tool_calling.choice import ChoiceWord, NamedTool, choose
from src.tool_calling.grammar import Tool, ToolChoice

# What Anthropic calls the choices that OpenAI has.
WORDS: dict[str, ChoiceWord] = {"none": "none", "auto": "auto", "any": "required"}


class ToolDefinition(WireRequest):
    """A tool that the model may call."""

    name: FunctionName
    description: ToolDescription = None
    input_schema: dict[str, Any] = Field(description="The JSON schema of its arguments.")
    type: Annotated[Literal["custom"] | None, NoEffect("tools of the caller's are all alike")] = (
        None
    )
    strict: StrictTool = None
    eager_input_streaming: Annotated[
        StrictBool | None, NoEffect("arguments are always sent as they are made")
    ] = None
    cache_control: Annotated[CacheControl | None, NoEffect(CACHED)] = None
    allowed_callers: Annotated[None, Refused("no code is run")] = None
    defer_loading: Annotated[None, Refused("all tools are told of")] = None
    input_examples: Annotated[None, Refused("show them in a message")] = None


class ToolChoiceConfig(WireRequest):
    """Which tools the answer may or must call."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {
                    "required": ["name"],
                    "properties": {"type": {"const": "tool"}, "name": {"type": "string"}},
                },
                {
                    "properties": {
                        "type": {"enum": ["auto", "any", "none"]},
                        "name": {"type": "null"},
                    }
                },
            ]
        }
    )

    type: Literal["auto", "any", "tool", "none"] = Field(
        description="What the model likes, some tool, the one of this `name`, or none."
    )
    name: StrictStr | None = Field(default=None, description="With the type `tool` alone.")
    disable_parallel_tool_use: StrictBool | None = Field(
        default=None, description="Allow no more than one call."
    )

    @model_validator(mode="after")
    def _has_a_name_if_it_needs_one(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            raise PydanticCustomError(
                "invalid_value", "name goes with the type tool, and with no other"
            )
        return self


class Thinking(WireRequest):
    """Whether the model thinks before it answers."""

    type: Literal["disabled"]


class OutputFormat(WireRequest):
    """How the answer is written."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema", description="What the answer's JSON is.")


class OutputConfig(WireRequest):
    """What the answer is like."""

    format: OutputFormat | None = Field(default=None, description="How the answer is written.")
    effort: Annotated[None, Refused("the served models take the same with each answer")] = None


class Metadata(WireRequest):
    """What is known of the request."""

    user_id: Annotated[StrictStr | None, NoEffect("users are not told apart by it")] = None


class CountTokensRequest(WireRequest):
    """A conversation whose tokens are to be counted. Null is what leaving out is."""

    conversation_field: ClassVar[str] = "messages"

    model: ModelName
    messages: list[MessageTurn] = Field(
        fail_fast=True,
        min_length=1,
        max_length=MAX_MESSAGES,
        description="The conversation so far; its last turn is not the assistant's.",
    )
    system: TextContent | None = Field(
        default=None, description="What comes before: a text, or blocks of text."
    )
    thinking: Annotated[Thinking | None, NoEffect("only disabled is accepted, and so it is")] = None
    cache_control: Annotated[CacheControl | None, NoEffect(CACHED)] = None
    tools: list[ToolDefinition] | None = Field(
        fail_fast=True,
        default=None,
        max_length=MAX_TOOLS,
        description="Tools that the model may call.",
    )
    tool_choice: ToolChoiceConfig | None = Field(
        default=None, description="Which of them it may or must call. Default: `auto`."
    )
    output_config: OutputConfig | None = Field(
        default=None, description="What the answer is like: text, or JSON that a schema allows."
    )
    mcp_servers: Annotated[None, Refused("the caller calls the tools")] = None
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

    def to_conversation(self) -> list[ChatMessage]:
        return to_conversation(self.system, self.messages)

    def to_tool_choice(self) -> ToolChoice | None:
        choice = self.tool_choice or ToolChoiceConfig(type="auto")
        named = NamedTool(choice.name, ("tool_choice", "name")) if choice.name is not None else None
        tools = [
            Tool(tool.name, tool.description, tool.input_schema, ("tools", index, "input_schema"))
            for index, tool in enumerate(self.tools or ())
        ]
        return choose(
            tools,
            named or WORDS[choice.type],
            is_parallel=not choice.disable_parallel_tool_use,
        )


class MessageRequest(CountTokensRequest):
    """A conversation to answer."""

    max_tokens: NumTokens = Field(
        description="New tokens at most; an answer that fills the context before ends there.",
    )
    temperature: StrictFloat | None = Field(default=None, ge=0, le=1, description=RANDOMNESS)
    top_p: TopPField = None
    top_k: Count | None = Field(default=None, description="Only so many of the most likely tokens.")
    stop_sequences: StopTextList | None = Field(
        default=None, description="Texts that end the answer and are left out."
    )
    stream: StrictBool | None = Field(
        default=None, description="Send events as the answer is made, as Server-Sent Events."
    )
    metadata: Annotated[Metadata | None, NoEffect("users are not told apart by it")] = None
    service_tier: Annotated[
        Literal["auto", "standard_only"] | None, NoEffect("there is one tier")
    ] = None
    container: Annotated[None, Refused("no code is run")] = None
    thread: Annotated[
        None, Refused("nothing is stored here; send the whole conversation as messages")
    ] = None
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

    def answer_options(self) -> AnswerOptions:
        return AnswerOptions(self.max_tokens, "max_tokens", ends_at_context=True)

    def answer_schema(self) -> GrammarSource | None:
        if self.output_config is None or self.output_config.format is None:
            return None
        schema = self.output_config.format.json_schema
        return schema_source(schema, ("output_config", "format", "schema"))

    def check(self) -> None:
        """Raises InvalidRequestError if fields do not go together."""
        super().check()
        if self.stop_sequences and (self.answer_schema() or self.to_tool_choice()):
            raise InvalidRequestError(
                "They do not go with structured output or tools, whose shape says where it ends:"
                " leave them out.",
                ("stop_sequences",),
            )

    @property
    def stop(self) -> list[Any] | None:
        """The common name of the same."""
        return self.stop_sequences
