"""Wire models of requests of `/v1/messages` and `/v1/messages/count_tokens`."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from src.api.anthropic.blocks import CACHED, CacheControl, MessageTurn, TextContent, text_of
from src.api.anthropic.conversation import to_conversation
from src.api.chat.request import AnswerOptions
from src.api.chat.thinking import ThinkingOptions
from src.api.fields.bounds import Count, NumTokens, StopTextList
from src.api.fields.priority import PriorityField
from src.api.fields.shared import (
    ANYTHING,
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
from src.api.fields.tagged_items import only_tools_of_clients
from src.api.fields.timings import TimingsField
from src.engine.structured_output.source import GrammarSource, schema_source
from src.errors import InvalidRequestError
from src.text.chat_template import ChatMessage, PromptEnd
from src.tool_calling.choice import ChoiceWord, NamedTool, choose
from src.tool_calling.grammar import Tool, ToolChoice

# Anthropic's words to OpenAI's.
WORDS: dict[str, ChoiceWord] = {"none": "none", "auto": "auto", "any": "required"}


class ToolDefinition(WireRequest):
    """A tool that the model may call."""

    name: FunctionName
    description: ToolDescription = None
    input_schema: dict[str, Any] = Field(description="JSON schema of the arguments.")
    type: Annotated[
        Literal["custom"] | None, NoEffect("all client tools have this type", silent=ANYTHING)
    ] = None
    strict: StrictTool = None
    eager_input_streaming: Annotated[
        StrictBool | None, NoEffect("arguments are always streamed", silent=ANYTHING)
    ] = None
    cache_control: Annotated[CacheControl | None, CACHED] = None
    allowed_callers: Annotated[Any, NoEffect("no code is run; clients call tools")] = None
    defer_loading: Annotated[
        StrictBool | None, NoEffect("all tools are in the prompt", silent=(False,))
    ] = None
    input_examples: Annotated[Any, NoEffect("show them in a message")] = None


class ToolChoiceConfig(WireRequest):
    """Tools that the answer may or must call."""

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
        description="`auto`: the model decides. `any`: at least one call. `tool`: the tool `name`."
        " `none`: no calls."
    )
    name: StrictStr | None = Field(default=None, description="Needs the type `tool`.")
    disable_parallel_tool_use: StrictBool | None = Field(
        default=None, description="Allow one call at most."
    )

    @model_validator(mode="after")
    def _has_a_name_if_it_needs_one(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            raise PydanticCustomError(
                "invalid_value", "name goes with the type tool, and with no other"
            )
        return self


class Thinking(WireRequest):
    """Thinking before the answer."""

    type: Literal["enabled", "adaptive", "disabled"] = Field(
        description="`enabled` and `adaptive`: think, if the model can. `disabled`: do not think."
    )
    budget_tokens: NumTokens | None = Field(
        default=None, description="Maximum number of tokens of the thought, which ends there."
    )
    display: Literal["summarized", "omitted"] | None = Field(
        default=None, description="`omitted` leaves the thought's text out of its block."
    )


class OutputFormat(WireRequest):
    """Format of the answer."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema", description="JSON schema of the answer.")


class OutputConfig(WireRequest):
    """Options of the answer."""

    format: OutputFormat | None = Field(default=None, description="Format of the answer.")
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = Field(
        default=None,
        description="Level for templates that know levels, as `reasoning_effort`; no effect on"
        " other models.",
    )


class Metadata(WireRequest):
    """Metadata of the request."""

    user_id: Annotated[StrictStr | None, NoEffect("users are not distinguished by it")] = None


class CountTokensRequest(WireRequest):
    """A conversation to count the tokens of. Null is the same as leaving out."""

    conversation_field: ClassVar[str] = "messages"

    model: ModelName
    messages: list[MessageTurn] = Field(
        fail_fast=True,
        min_length=1,
        max_length=MAX_MESSAGES,
        description="The conversation; the answer continues a last turn of the assistant.",
    )
    system: TextContent | None = Field(
        default=None, description="System message: a text, or text blocks."
    )
    thinking: Thinking | None = Field(
        default=None,
        description="Thinking before the answer. Default: ENABLE_THINKING, or the chat template's.",
    )
    cache_control: Annotated[CacheControl | None, CACHED] = None
    tools: Annotated[
        Annotated[list[ToolDefinition], Field(fail_fast=True, max_length=MAX_TOOLS)] | None,
        only_tools_of_clients("custom"),
    ] = Field(default=None, description="Tools that the model may call.")
    tool_choice: ToolChoiceConfig | None = Field(
        default=None, description="Tools that the answer may or must call. Default: `auto`."
    )
    output_config: OutputConfig | None = Field(
        default=None, description="Options of the answer: text, or JSON by a schema."
    )
    mcp_servers: Annotated[
        Annotated[list[Any], Field(max_length=0)] | None,
        NoEffect("the client calls the tools; only an empty list is accepted", silent=([],)),
    ] = None
    context_management: Annotated[Any, NoEffect("conversations are not edited")] = None
    speed: Annotated[StrictStr | None, NoEffect("there is one speed", silent=("standard",))] = None
    user_profile_id: Annotated[Any, NoEffect("users are not distinguished")] = None

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
        """Raises InvalidRequestError if fields contradict each other."""
        if self.thinking is not None and self.thinking.type != "enabled":
            self._check_no_budget(self.thinking)
        if self.messages[-1].role == "assistant" and not text_of(self.messages[-1].content):
            raise InvalidRequestError(
                "The last message is the assistant's and has no text that an answer could continue:"
                " end with the user's.",
                ("messages", len(self.messages) - 1, "content"),
            )

    @staticmethod
    def _check_no_budget(thinking: Thinking) -> None:
        if thinking.budget_tokens is not None:
            raise InvalidRequestError(
                "A budget goes with the type enabled: leave it out.", ("thinking", "budget_tokens")
            )

    def to_conversation(self) -> list[ChatMessage]:
        return to_conversation(self.system, self.messages)

    def prompt_end(self) -> PromptEnd:
        is_open = self.messages[-1].role == "assistant"
        return PromptEnd.LAST_TEXT if is_open else PromptEnd.ANSWER_HEAD

    def thinking_options(self) -> ThinkingOptions:
        thinking = self.thinking
        effort = self.output_config.effort if self.output_config else None
        return ThinkingOptions(
            None if thinking is None else thinking.type != "disabled",
            budget=thinking.budget_tokens if thinking else None,
            level=effort,
        )

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
        description="Maximum number of new tokens; an answer that fills the context ends there.",
    )
    temperature: StrictFloat | None = Field(default=None, ge=0, le=1, description=RANDOMNESS)
    top_p: TopPField = None
    top_k: Count | None = Field(
        default=None,
        description="Sample among this many most likely tokens; 0 is all. Default: the model's.",
    )
    stop_sequences: StopTextList | None = Field(
        default=None, description="Texts that end the answer and are not part of it."
    )
    stream: StrictBool | None = Field(
        default=None, description="Send events during generation, as Server-Sent Events."
    )
    priority: PriorityField = None
    timings: TimingsField = None
    metadata: Annotated[Metadata | None, NoEffect("users are not distinguished by it")] = None
    service_tier: Annotated[
        StrictStr | None, NoEffect("there is one tier", silent=("auto", "standard_only"))
    ] = None
    container: Annotated[None, Refused("no code is run")] = None
    thread: Annotated[
        None, Refused("nothing is stored here; send the whole conversation as messages")
    ] = None
    diagnostics: Annotated[Any, NoEffect("requests are not stored")] = None
    inference_geo: Annotated[Any, NoEffect("the server's location is fixed")] = None

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
        """Raises InvalidRequestError if fields contradict each other."""
        super().check()
        if self.stop_sequences and (self.answer_schema() or self.to_tool_choice()):
            raise InvalidRequestError(
                "They cannot be combined with tools or structured output, whose grammar ends the"
                " answer: leave them out.",
                ("stop_sequences",),
            )

    @property
    def stop(self) -> list[Any] | None:
        """Stop texts, by the name that `sampling_params` reads."""
        return self.stop_sequences
