"""Requests of `/v1/responses`, as they are on the wire."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from src.api.calls import choose
from src.api.openai.chat.tools import MAX_TOOLS, FunctionName
from src.api.openai.fields import MAX_TOKENS, NoEffect, OnlyFalse, OpenAIRequest, Refused
from src.api.openai.response.items import Items
from src.api.structured import ANY_OBJECT
from src.engine.grammar import GrammarSource, schema_source
from src.engine.sampling_params import MAX_LOGPROBS
from src.errors import InvalidRequestError
from src.tool_calls import NO_ARGUMENTS, Tool, ToolChoice

LOGPROBS = "message.output_text.logprobs"
STATE = "nothing is stored here; send the whole conversation as input"


class TextFormat(OpenAIRequest):
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
    name: Annotated[
        Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None,
        NoEffect("it names the schema for those who write it"),
    ] = None
    description: Annotated[StrictStr | None, NoEffect("say in a message what is wanted")] = None
    strict: Annotated[StrictBool | None, NoEffect("answers always keep to the schema")] = None

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


class TextConfig(OpenAIRequest):
    """What the answer's text is like."""

    format: TextFormat | None = Field(default=None, description="How it is written: text, or JSON.")
    verbosity: Annotated[None, Refused("ask for it in a message")] = None


class ResponseTool(OpenAIRequest):
    """A function that the model may call."""

    type: Literal["function"] = Field(description="`function` alone.")
    name: FunctionName = Field(description="Letters, digits, `_` and `-`, at most 64.")
    description: StrictStr | None = Field(default=None, description="What it does, for the model.")
    parameters: dict[str, Any] | None = Field(
        default=None, description="The JSON schema of its arguments, an object. Default: none."
    )
    strict: Annotated[StrictBool | None, NoEffect("arguments always keep to the schema")] = None
    allowed_callers: Annotated[None, Refused("no code is run")] = None
    defer_loading: Annotated[None, Refused("all tools are told of")] = None
    output_schema: Annotated[None, Refused("results are read as they come")] = None


class NamedTool(OpenAIRequest):
    """The one tool that is to be called."""

    type: Literal["function"] = Field(description="`function` alone.")
    name: StrictStr = Field(description="One of `tools`.")


def _parse_tool_choice(value: object) -> object:
    """One of the words, or which function; that is no union, whose errors nobody would read."""
    if value in ("none", "auto", "required"):
        return value
    try:
        return NamedTool.model_validate(value)
    except ValidationError:
        raise PydanticCustomError(
            "invalid_value",
            'It must be none, auto, required, or {{"type": "function", "name": …}}',
        ) from None


ToolChoiceField = Annotated[
    Literal["none", "auto", "required"] | NamedTool,
    PlainValidator(
        _parse_tool_choice,
        json_schema_input_type=Literal["none", "auto", "required"] | NamedTool,
    ),
]


class ResponseStreamOptions(OpenAIRequest):
    """What a stream tells beside the text."""

    include_obfuscation: Annotated[
        OnlyFalse | None, NoEffect("events are never padded; only false is accepted")
    ] = None


class ResponseRequest(OpenAIRequest):
    """A conversation to answer. Null is what leaving out is."""

    model: StrictStr = Field(description="The served model, as /v1/models names it.")
    input: Items = Field(
        description="The conversation so far: a text of the user's, or messages, calls and results."
    )
    instructions: StrictStr | None = Field(
        default=None, description="What the system says before the conversation."
    )
    max_output_tokens: StrictInt | None = Field(
        default=None,
        ge=1,
        le=MAX_TOKENS,
        description="New tokens at most. Default: what the prompt leaves of the context.",
    )
    temperature: StrictFloat | None = Field(
        default=None,
        ge=0,
        le=2,
        description="Randomness: 0 always takes the most likely token. Default: 1.",
    )
    top_p: StrictFloat | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Only the most likely tokens whose probabilities add up to this. Default: 1.",
    )
    stream: StrictBool | None = Field(
        default=None, description="Send events as the answer is made, as Server-Sent Events."
    )
    text: TextConfig | None = Field(default=None, description="What the answer's text is like.")
    include: list[Literal["message.output_text.logprobs"]] | None = Field(
        default=None, max_length=8, description="Tell each new token's log-probability."
    )
    top_logprobs: StrictInt | None = Field(
        default=None,
        ge=0,
        le=MAX_LOGPROBS,
        description=f"And those of so many most likely ones; with `{LOGPROBS}` included alone.",
    )
    tools: list[ResponseTool] | None = Field(
        default=None, max_length=MAX_TOOLS, description="Functions that the model may call."
    )
    tool_choice: ToolChoiceField | None = Field(
        default=None,
        description="`none` keeps the tools from the model, `auto` lets it choose, `required` makes"
        " it call one, an object says which. Default: `auto`.",
    )
    parallel_tool_calls: StrictBool | None = Field(
        default=None, description="Whether an answer may hold several calls. Default: true."
    )
    metadata: Annotated[
        dict[StrictStr, StrictStr] | None, NoEffect("the answer repeats it; nothing is stored")
    ] = None
    user: Annotated[StrictStr | None, NoEffect("users are not told apart by it")] = None
    safety_identifier: Annotated[StrictStr | None, NoEffect("users are not told apart")] = None
    prompt_cache_key: Annotated[
        StrictStr | None, NoEffect("common beginnings of prompts are found without it")
    ] = None
    prompt_cache_retention: Annotated[
        Literal["in_memory"] | None, NoEffect("it is what is done")
    ] = None
    service_tier: Annotated[Literal["auto", "default"] | None, NoEffect("there is one tier")] = None
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

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.include else None

    @property
    def text_format(self) -> TextFormat:
        return (self.text and self.text.format) or TextFormat(type="text")

    def tools_to_call(self) -> ToolChoice | None:
        """Which tools the answer may or must call; None is none.

        Raises:
            InvalidRequestError: tools and the choice do not go together.
        """
        wanted = self.tool_choice or "auto"
        named = wanted.name if isinstance(wanted, NamedTool) else None
        if not self.tools:
            if named is not None or wanted == "required":
                raise InvalidRequestError("There are no tools to choose from.", ("tool_choice",))
            return None
        if wanted == "none":
            return None
        tools = [
            Tool(
                tool.name,
                tool.description,
                NO_ARGUMENTS if tool.parameters is None else tool.parameters,
                ("tools", index, "parameters"),
            )
            for index, tool in enumerate(self.tools)
        ]
        return choose(
            tools,
            named=named,
            is_forced=wanted == "required",
            is_parallel=self.parallel_tool_calls is not False,
        )

    def check(self) -> None:
        """Raises InvalidRequestError if fields do not go together."""
        if self.include and self.tools_to_call():
            raise InvalidRequestError(
                "Log-probabilities are told of answers that are text alone: leave tools out, or"
                " choose none.",
                ("include",),
            )
        if self.top_logprobs is not None and not self.include:
            raise InvalidRequestError(
                f'top_logprobs needs include: ["{LOGPROBS}"].', ("top_logprobs",)
            )
