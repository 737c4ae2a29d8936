"""Wire models of requests of `/v1/responses`."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, StrictBool, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from src.api.chat.request import AnswerOptions
from src.api.chat.thinking import ThinkingOptions
from src.api.fields.bounds import Count, Metadata, NumLogprobs, NumTokens
from src.api.fields.priority import PriorityField, ServiceTier
from src.api.fields.shared import (
    ANYTHING,
    MAX_TOOLS,
    ModelName,
    NoEffect,
    Refused,
    TemperatureField,
    TopPField,
    WireRequest,
)
from src.api.fields.structured import ANY_OBJECT
from src.api.fields.tagged_items import only_tools_of_clients
from src.api.fields.timings import TimingsField
from src.api.openai.fields import (
    NAMED,
    FormatDescription,
    FormatName,
    PromptCacheKey,
    PromptCacheRetention,
    ReasoningEffort,
    SafetyIdentifier,
    Store,
    StrictFormat,
    User,
    Verbosity,
)
from src.api.openai.responses.conversation import to_conversation
from src.api.openai.responses.items import Items
from src.api.openai.tools import (
    TOOL_CHOICE,
    TOOLS,
    FunctionFields,
    Mode,
    OfAFunction,
    OfAllowedTools,
    ParallelToolCalls,
    choice_of,
)
from src.engine.structured_output.source import GrammarSource, schema_source
from src.errors import InvalidRequestError
from src.text.chat_template import ChatMessage, PromptEnd
from src.tool_calling.choice import AllowedTools, ChoiceWord, NamedTool, choose
from src.tool_calling.grammar import ToolChoice

LOGPROBS = "message.output_text.logprobs"
Included = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]
STATE = "no conversations are stored here; send the whole conversation as input"


class TextFormat(WireRequest):
    """Format of the answer."""

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
        description="Free text, any JSON object, or JSON by `schema`."
    )
    json_schema: dict[str, Any] | None = Field(
        default=None,
        alias="schema",
        description="JSON schema of the answer; needs the type `json_schema`.",
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
        """Returns the grammar of the format; None for any text."""
        if self.type == "text":
            return None
        field = ("text", "format")
        if self.json_schema is None:
            return schema_source(ANY_OBJECT, field)
        return schema_source(self.json_schema, (*field, "schema"))


class TextConfig(WireRequest):
    """Options of the answer's text."""

    format: TextFormat | None = Field(default=None, description="Format: text or JSON.")
    verbosity: Verbosity = None


class ResponseTool(FunctionFields, OfAFunction):
    """A function that the model may call."""

    allowed_callers: Annotated[Any, NoEffect("no code is run; clients call tools")] = None
    defer_loading: Annotated[
        StrictBool | None, NoEffect("all tools are in the prompt", silent=(False,))
    ] = None
    output_schema: Annotated[Any, NoEffect("results are not validated")] = None


class NamedResponseTool(OfAFunction):
    """The tool that must be called."""

    name: StrictStr = Field(description="Name of one of `tools`.")

    def to_engine(self) -> NamedTool:
        return NamedTool(self.name, ("tool_choice", "name"))


class AllowedResponseTools(OfAllowedTools):
    """The tools that may be called; all of them stay in the prompt."""

    mode: Mode
    tools: list[NamedResponseTool] = Field(
        fail_fast=True, min_length=1, max_length=MAX_TOOLS, description="Some of `tools`."
    )

    def to_engine(self) -> AllowedTools:
        tools = tuple(
            NamedTool(tool.name, ("tool_choice", "tools", index, "name"))
            for index, tool in enumerate(self.tools)
        )
        return AllowedTools(tools, self.mode == "required")


ResponseToolChoice = Annotated[
    ChoiceWord | NamedResponseTool | AllowedResponseTools | None,
    choice_of(NamedResponseTool, AllowedResponseTools, '{"type": "function", "name": …}'),
]


class ResponseStreamOptions(WireRequest):
    """Options of a stream."""

    include_obfuscation: Annotated[
        StrictBool | None, NoEffect("events are never padded", silent=(False,))
    ] = None


class ReasoningConfig(WireRequest):
    """Thinking before the answer."""

    effort: ReasoningEffort = None
    summary: Annotated[
        Literal["auto", "concise", "detailed"] | None,
        NoEffect("answers have the whole thought", silent=ANYTHING),
    ] = None
    generate_summary: Annotated[
        Literal["auto", "concise", "detailed"] | None,
        NoEffect("answers have the whole thought", silent=ANYTHING),
    ] = None
    context: Annotated[
        Literal["auto", "current_turn", "all_turns"] | None,
        NoEffect("the chat template decides on the use of earlier thoughts", silent=ANYTHING),
    ] = None


class ResponseRequest(WireRequest):
    """A conversation to answer. Null is the same as leaving out."""

    conversation_field: ClassVar[str] = "input"

    model: ModelName
    input: Items = Field(
        description="The conversation: a text of the user, or messages, calls and results."
    )
    instructions: StrictStr | None = Field(
        default=None, description="System message before the conversation."
    )
    max_output_tokens: NumTokens | None = Field(
        default=None,
        description="Maximum number of new tokens. Default: the rest of the context.",
    )
    temperature: TemperatureField = None
    top_p: TopPField = None
    stream: StrictBool | None = Field(
        default=None, description="Send events during generation, as Server-Sent Events."
    )
    text: TextConfig | None = Field(default=None, description="Options of the answer's text.")
    timings: TimingsField = None
    include: list[Included] | None = Field(
        fail_fast=True,
        default=None,
        max_length=8,
        description=f"`{LOGPROBS}`: return the log-probability of each token of the text."
        f" The others have no effect: thoughts are not encrypted, and there are no built-in tools.",
    )
    reasoning: ReasoningConfig | None = Field(
        default=None, description="Thinking before the answer."
    )
    top_logprobs: NumLogprobs | None = Field(
        default=None,
        description=f"Number of most likely tokens to return beside each; needs `{LOGPROBS}`.",
    )
    tools: Annotated[
        Annotated[list[ResponseTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None,
        only_tools_of_clients("function"),
    ] = Field(default=None, description=TOOLS)
    tool_choice: ResponseToolChoice = Field(default=None, description=TOOL_CHOICE)
    parallel_tool_calls: ParallelToolCalls = None
    metadata: Annotated[Metadata | None, NoEffect("the answer repeats it; nothing is stored")] = (
        None
    )
    user: User = None
    safety_identifier: SafetyIdentifier = None
    prompt_cache_key: PromptCacheKey = None
    prompt_cache_retention: PromptCacheRetention = None
    priority: PriorityField = None
    service_tier: ServiceTier = None
    store: Store = None
    background: StrictBool | None = Field(
        default=None,
        description="Answer later: the response is `queued`, and `GET /v1/responses/ID` shows it.",
    )
    truncation: Annotated[
        Literal["auto", "disabled"] | None,
        NoEffect("prompts are never truncated", silent=("disabled",)),
    ] = None
    stream_options: Annotated[
        ResponseStreamOptions | None, NoEffect("its one field has no effect", silent=ANYTHING)
    ] = None
    max_tool_calls: Annotated[
        Count | None, NoEffect("it bounds built-in tools, of which there are none")
    ] = None
    previous_response_id: Annotated[None, Refused(STATE)] = None
    conversation: Annotated[None, Refused(STATE)] = None
    prompt: Annotated[None, Refused(STATE)] = None
    context_management: Annotated[Any, NoEffect("conversations are not edited")] = None
    client_metadata: Annotated[Any, NoEffect("clients are not distinguished by it")] = None
    background_options: Annotated[None, Refused("background responses have no options")] = None
    moderation: Annotated[None, Refused("there is no moderation model")] = None
    prompt_cache_options: Annotated[Any, NoEffect("the cache has no options")] = None
    image: Annotated[None, Refused("the served models read and write text alone")] = None
    access_programs: Annotated[None, Refused("there are no access programs")] = None

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
            num_logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
        )

    def answer_schema(self) -> GrammarSource | None:
        return self.text_format.grammar()

    def to_conversation(self) -> list[ChatMessage]:
        return to_conversation(self.instructions, self.input)

    @property
    def text_format(self) -> TextFormat:
        return (self.text and self.text.format) or TextFormat(type="text")

    def prompt_end(self) -> PromptEnd:
        return PromptEnd.ANSWER_HEAD

    def thinking_options(self) -> ThinkingOptions:
        return ThinkingOptions(effort=self.reasoning.effort if self.reasoning else None)

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    def to_tool_choice(self) -> ToolChoice | None:
        choice = self.tool_choice or "auto"
        tools = [tool.to_engine(("tools", index)) for index, tool in enumerate(self.tools or ())]
        return choose(
            tools,
            choice if isinstance(choice, str) else choice.to_engine(),
            is_parallel=self.parallel_tool_calls is not False,
        )

    def check(self) -> None:
        """Raises InvalidRequestError if fields contradict each other."""
        if self.background:
            self._check_background()
        if self.wants_logprobs and self.to_tool_choice():
            raise InvalidRequestError(
                "Log-probabilities are not available for answers with tools: leave include or tools"
                " out, or set tool_choice to none.",
                ("include",),
            )
        if self.top_logprobs is not None and not self.wants_logprobs:
            raise InvalidRequestError(
                f'top_logprobs needs include: ["{LOGPROBS}"].', ("top_logprobs",)
            )

    def _check_background(self) -> None:
        if self.stream:
            raise InvalidRequestError(
                "Background responses cannot be streamed: leave stream or background out.",
                ("stream",),
            )
        if self.store is False:
            raise InvalidRequestError(
                "Background responses are stored until they are read: leave store or background"
                " out, or delete the response afterwards.",
                ("store",),
            )
