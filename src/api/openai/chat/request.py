"""Wire models of requests of `/v1/chat/completions`."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, StrictBool, model_validator
from pydantic_core import PydanticCustomError

from src.api.chat.request import AnswerOptions
from src.api.chat.thinking import VARIABLES, TemplateVariables, ThinkingOptions
from src.api.fields.bounds import Count, NumLogprobs, NumTokens
from src.api.fields.shared import MAX_MESSAGES, MAX_TOOLS, NoEffect, Refused, WireRequest
from src.api.fields.structured import ANY_OBJECT, only_one
from src.api.fields.tagged_items import only_tools_of_clients
from src.api.openai.chat.conversation import to_conversation
from src.api.openai.chat.messages import AUDIO, OLD_CALLS, ChatTurn
from src.api.openai.chat.prompt_end import (
    AddGenerationPrompt,
    ContinueFinalMessage,
    check_prompt_end,
    prompt_end,
)
from src.api.openai.chat.tools import (
    ChatToolChoice,
    FunctionTool,
    NamedToolChoice,
    to_tools,
)
from src.api.openai.fields import (
    NAMED,
    FormatDescription,
    FormatName,
    GenerationRequest,
    PromptCacheKey,
    PromptCacheRetention,
    ReasoningEffort,
    SafetyIdentifier,
    StrictFormat,
    Verbosity,
)
from src.api.openai.tools import TOOL_CHOICE, TOOLS, ParallelToolCalls
from src.engine.structured_output.source import GrammarSource, schema_source
from src.errors import FieldPath, InvalidRequestError
from src.text.chat_template import ChatMessage, PromptEnd
from src.tool_calling.choice import choose
from src.tool_calling.grammar import ToolChoice


class JsonSchemaFormat(WireRequest):
    """JSON schema of the answer."""

    name: Annotated[FormatName, NAMED]
    description: FormatDescription = None
    json_schema: dict[str, Any] = Field(alias="schema", description="JSON schema of the answer.")
    strict: StrictFormat = None


class ResponseFormat(WireRequest):
    """Format of the answer."""

    type: Literal["text", "json_object", "json_schema"] = Field(
        description="Free text, any JSON object, or JSON by `json_schema`."
    )
    json_schema: JsonSchemaFormat | None = Field(
        default=None, description="Needs the type `json_schema`."
    )

    @model_validator(mode="after")
    def _has_a_schema_if_it_needs_one(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError(
                "invalid_value", "json_schema goes with the type json_schema, and with no other"
            )
        return self

    def grammar(self, field: FieldPath) -> GrammarSource | None:
        """Returns the grammar of the format; None for any text."""
        if self.type == "text":
            return None
        if self.json_schema is None:
            return schema_source(ANY_OBJECT, field)
        return schema_source(self.json_schema.json_schema, (*field, "json_schema", "schema"))


class ChatCompletionRequest(GenerationRequest):
    """A conversation to answer."""

    conversation_field: ClassVar[str] = "messages"

    messages: list[ChatTurn] = Field(
        fail_fast=True,
        min_length=1,
        max_length=MAX_MESSAGES,
        description="The conversation so far.",
    )
    max_completion_tokens: NumTokens | None = Field(
        default=None,
        description="Maximum number of new tokens. Default: the rest of the context.",
    )
    max_tokens: NumTokens | None = Field(default=None, description="Its older name.")
    logprobs: StrictBool | None = Field(
        default=None, description="Return the log-probability of each new token."
    )
    top_logprobs: NumLogprobs | None = Field(
        default=None,
        description="Number of most likely tokens to return beside each; needs `logprobs`.",
    )
    response_format: ResponseFormat | None = Field(
        default=None, description="Format of the answer: text or JSON; see below."
    )
    modalities: list[Literal["text"]] | None = Field(
        fail_fast=True, default=None, min_length=1, max_length=1, description="Only `text`."
    )
    tools: Annotated[
        Annotated[list[FunctionTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None,
        only_tools_of_clients("function"),
    ] = Field(default=None, description=TOOLS)
    tool_choice: ChatToolChoice = Field(default=None, description=TOOL_CHOICE)
    parallel_tool_calls: ParallelToolCalls = None
    reasoning_effort: ReasoningEffort = None
    enable_thinking: StrictBool | None = Field(
        default=None, description="Extension: think before the answer, or not."
    )
    thinking_token_budget: Count | None = Field(
        default=None,
        description="Extension: maximum number of tokens of the thought, which ends there.",
    )
    thinking_budget: Count | None = Field(
        default=None, description="Extension: another name of `thinking_token_budget`."
    )
    chat_template_kwargs: TemplateVariables | None = Field(default=None, description=VARIABLES)
    add_generation_prompt: AddGenerationPrompt = None
    continue_final_message: ContinueFinalMessage = None
    functions: Annotated[None, Refused(OLD_CALLS)] = None
    function_call: Annotated[None, Refused(OLD_CALLS)] = None
    audio: Annotated[None, Refused(AUDIO)] = None
    moderation: Annotated[None, Refused("there is no moderation model")] = None
    prediction: Annotated[Any, NoEffect("predictions are not used")] = None
    verbosity: Verbosity = None
    web_search_options: Annotated[None, Refused("there is no web search")] = None
    chat_template: Annotated[
        None, Refused("templates are code; the server's operator sets CHAT_TEMPLATE")
    ] = None
    safety_identifier: SafetyIdentifier = None
    prompt_cache_key: PromptCacheKey = None
    prompt_cache_retention: PromptCacheRetention = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "storyteller",
                    "messages": [{"role": "user", "content": "What is the capital of France?"}],
                    "max_completion_tokens": 20,
                    "temperature": 0,
                }
            ]
        }
    )

    def answer_options(self) -> AnswerOptions:
        is_new_name = self.max_completion_tokens is not None
        return AnswerOptions(
            max_tokens=self.max_completion_tokens or self.max_tokens,
            max_tokens_field="max_completion_tokens" if is_new_name else "max_tokens",
            min_tokens=self.min_tokens,
            num_choices=self.num_choices,
            num_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )

    def to_conversation(self) -> list[ChatMessage]:
        return to_conversation(self.messages)

    def to_tool_choice(self) -> ToolChoice | None:
        choice = self.tool_choice or "auto"
        return choose(
            to_tools(self.tools),
            choice if isinstance(choice, str) else choice.to_engine(),
            is_parallel=self.parallel_tool_calls is not False,
        )

    def prompt_end(self) -> PromptEnd:
        return prompt_end(self)

    def thinking_options(self) -> ThinkingOptions:
        budget = self.thinking_token_budget
        insisted = "enable_thinking" if self.enable_thinking else None
        for name in ("thinking_token_budget", "thinking_budget"):
            insisted = name if getattr(self, name) else insisted
        return ThinkingOptions(
            self.enable_thinking,
            self.reasoning_effort,
            self.thinking_budget if budget is None else budget,
            self.chat_template_kwargs or {},
            insisted=None if insisted is None else (insisted,),
        )

    @property
    def has_named_tool(self) -> bool:
        return isinstance(self.tool_choice, NamedToolChoice)

    def answer_schema(self) -> GrammarSource | None:
        sources = self.grammars()
        if self.response_format is not None:
            source = self.response_format.grammar(("response_format",))
            sources += [source] if source else []
        return only_one(sources)

    def check(self) -> None:
        """Raises InvalidRequestError if fields contradict each other."""
        super().check()
        check_prompt_end(self)
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            raise InvalidRequestError(
                "max_tokens is the older name of max_completion_tokens; send one of them.",
                ("max_tokens",),
            )
        if len({self.thinking_budget, self.thinking_token_budget} - {None}) > 1:
            raise InvalidRequestError(
                "thinking_budget is another name of thinking_token_budget; send one of them.",
                ("thinking_budget",),
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs: true.", ("top_logprobs",))
        for name in ("tool_choice", "parallel_tool_calls"):
            if getattr(self, name) not in (None, "none") and not self.tools:
                raise InvalidRequestError(f"{name} needs tools.", (name,))
