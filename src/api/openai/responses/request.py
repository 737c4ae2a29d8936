"""Requests of `/v1/responses`, as they are on the wire."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, StrictBool, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from src.api.chat_pipeline import AnswerOptions
from src.api.field_types import Metadata, NumLogprobs, NumTokens
from src.api.fields import (
    MAX_TOOLS,
    ModelName,
    NoEffect,
    OnlyFalse,
    Refused,
    TemperatureField,
    TopPField,
    WireRequest,
)
from src.api.openai.fields import (
    NAMED,
    FormatDescription,
    FormatName,
    PromptCacheKey,
    PromptCacheRetention,
    SafetyIdentifier,
    ServiceTier,
    StrictFormat,
    User,
)
from src.api.openai.responses.conversation import to_conversation
from src.api.openai.responses.items import Items
from src.api.openai.tools import (
    TOOL_CHOICE,
    TOOLS,
    FunctionFields,
    OfAFunction,
    ParallelToolCalls,
    choice_of,
)
from src.api.structured import ANY_OBJECT
from src.engine.structured_output.source import GrammarSource, schema_source
from src.errors import InvalidRequestError
from src.text.chat_template import ChatMessage
from src.tool_calling.choice import ChoiceWord, NamedTool, choose
from src.tool_calling.grammar import ToolChoice

LOGPROBS = "message.output_text.logprobs"
STATE = "nothing is stored here; send the whole conversation as input"


class TextFormat(WireRequest):
    """How the answer is written."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {
                    "required": ["schema", "name"],
                    "properties": {
                        "type": {"const": "json_schema"},
                        "schema": {"type": "object"},
                        "name": {"type": "string"},
                    },
                },
                {
                    "properties": {
                        "type": {"enum": ["text", "json_object"]},
                        "schema": {"type": "null"},
                        "name": {"type": "null"},
                    }
                },
            ]
        }
    )

    type: Literal["text", "json_object", "json_schema"] = Field(
        description="Free text, any JSON object, or what `schema` says."
    )
    json_schema: dict[str, Any] | None = Field(
        default=None,
        alias="schema",
        description="What the answer's JSON is; with the type `json_schema` alone.",
    )
    name: Annotated[FormatName | None, NAMED] = None
    description: FormatDescription = None
    strict: StrictFormat = None

    @model_validator(mode="after")
    def _has_a_schema_if_it_needs_one(self) -> Self:
        is_shaped = self.type == "json_schema"
        if is_shaped != (self.json_schema is not None) or is_shaped != (self.name is not None):
            raise PydanticCustomError(
                "invalid_value",
                "schema and name go with the type json_schema, and with no other",
            )
        return self

    def grammar(self) -> GrammarSource | None:
        """What an answer in this format is; None is any text."""
        if self.type == "text":
            return None
        field = ("text", "format")
        if self.json_schema is None:
            return schema_source(ANY_OBJECT, field)
        return schema_source(self.json_schema, (*field, "schema"))


class TextConfig(WireRequest):
    """What the answer's text is like."""

    format: TextFormat | None = Field(default=None, description="How it is written: text, or JSON.")
    verbosity: Annotated[None, Refused("ask for it in a message")] = None


class ResponseTool(FunctionFields, OfAFunction):
    """A function that the model may call."""

    allowed_callers: Annotated[None, Refused("no code is run")] = None
    defer_loading: Annotated[None, Refused("all tools are told of")] = None
    output_schema: Annotated[None, Refused("results are read as they come")] = None


class NamedResponseTool(OfAFunction):
    """The one tool that is to be called."""

    name: StrictStr = Field(description="One of `tools`.")

    def to_engine(self) -> NamedTool:
        return NamedTool(self.name, ("tool_choice", "name"))


ResponseToolChoice = Annotated[
    ChoiceWord | NamedResponseTool | None,
    choice_of(NamedResponseTool, '{"type": "function", "name": …}'),
]


class ResponseStreamOptions(WireRequest):
    """What a stream tells beside the text."""

    include_obfuscation: Annotated[
        OnlyFalse | None, NoEffect("events are never padded; only false is accepted")
    ] = None


class ResponseRequest(WireRequest):
    """A conversation to answer. Null is what leaving out is."""

    conversation_field: ClassVar[str] = "input"

    model: ModelName
    input: Items = Field(
        description="The conversation so far: a text of the user's, or messages, calls and results."
    )
    instructions: StrictStr | None = Field(
        default=None, description="What the system says before the conversation."
    )
    max_output_tokens: NumTokens | None = Field(
        default=None,
        description="New tokens at most. Default: what the prompt leaves of the context.",
    )
    temperature: TemperatureField = None
    top_p: TopPField = None
    stream: StrictBool | None = Field(
        default=None, description="Send events as the answer is made, as Server-Sent Events."
    )
    text: TextConfig | None = Field(default=None, description="What the answer's text is like.")
    include: list[Literal["message.output_text.logprobs"]] | None = Field(
        fail_fast=True,
        default=None,
        max_length=8,
        description="Tell each new token's log-probability.",
    )
    top_logprobs: NumLogprobs | None = Field(
        default=None,
        description=f"And those of so many most likely ones; with `{LOGPROBS}` included alone.",
    )
    tools: list[ResponseTool] | None = Field(
        fail_fast=True, default=None, max_length=MAX_TOOLS, description=TOOLS
    )
    tool_choice: ResponseToolChoice = Field(default=None, description=TOOL_CHOICE)
    parallel_tool_calls: ParallelToolCalls = None
    metadata: Annotated[Metadata | None, NoEffect("the answer repeats it; nothing is stored")] = (
        None
    )
    user: User = None
    safety_identifier: SafetyIdentifier = None
    prompt_cache_key: PromptCacheKey = None
    prompt_cache_retention: PromptCacheRetention = None
    service_tier: ServiceTier = None
    store: Annotated[OnlyFalse | None, NoEffect("nothing is stored, also where it is left out")] = (
        None
    )
    background: Annotated[OnlyFalse | None, NoEffect("answers are waited for")] = None
    truncation: Annotated[Literal["disabled"] | None, NoEffect("nothing is left out")] = None
    stream_options: Annotated[
        ResponseStreamOptions | None, NoEffect("its one field has no effect")
    ] = None
    max_tool_calls: Annotated[None, Refused("parallel_tool_calls allows one, or any number")] = None
    previous_response_id: Annotated[None, Refused(STATE)] = None
    conversation: Annotated[None, Refused(STATE)] = None
    prompt: Annotated[None, Refused(STATE)] = None
    context_management: Annotated[None, Refused(STATE)] = None
    background_options: Annotated[None, Refused("answers are waited for")] = None
    reasoning: Annotated[None, Refused("the served models do not reason apart")] = None
    moderation: Annotated[None, Refused("there is no moderation model")] = None
    prompt_cache_options: Annotated[None, Refused("the cache needs none")] = None
    image: Annotated[None, Refused("the served models read and write text alone")] = None
    access_programs: Annotated[None, Refused("there are none")] = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "storyteller",
                    "input": "What is the capital of France?",
                    "max_output_tokens": 20,
                    "temperature": 0,
                }
            ]
        }
    )

    def answer_options(self) -> AnswerOptions:
        return AnswerOptions(
            max_tokens=self.max_output_tokens,
            max_tokens_field="max_output_tokens",
            num_logprobs=(self.top_logprobs or 0) if self.include else None,
        )

    def answer_schema(self) -> GrammarSource | None:
        return self.text_format.grammar()

    def to_conversation(self) -> list[ChatMessage]:
        return to_conversation(self.instructions, self.input)

    @property
    def text_format(self) -> TextFormat:
        return (self.text and self.text.format) or TextFormat(type="text")

    def to_tool_choice(self) -> ToolChoice | None:
        choice = self.tool_choice or "auto"
        tools = [tool.to_engine(("tools", index)) for index, tool in enumerate(self.tools or ())]
        return choose(
            tools,
            choice if isinstance(choice, str) else choice.to_engine(),
            is_parallel=self.parallel_tool_calls is not False,
        )

    def check(self) -> None:
        """Raises InvalidRequestError if fields do not go together."""
        if self.include and self.to_tool_choice():
            raise InvalidRequestError(
                "Log-probabilities are told of answers that are text alone: leave tools out, or"
                " choose none.",
                ("include",),
            )
        if self.top_logprobs is not None and not self.include:
            raise InvalidRequestError(
                f'top_logprobs needs include: ["{LOGPROBS}"].', ("top_logprobs",)
            )
