"""Requests of `/v1/chat/completions`, as they are on the wire."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from src.api.field_types import NumLogprobs, NumTokens
from src.api.fields import (
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TOOLS,
    SENT_BACK,
    NoEffect,
    Parsed,
    Refused,
    SentBack,
    WireRequest,
)
from src.api.openai.chat.tools import ChatToolChoice, FunctionTool, MessageCall, NamedToolChoice
from src.api.openai.fields import (
    NAMED,
    FormatDescription,
    FormatName,
    GenerationRequest,
    PromptCacheKey,
    PromptCacheRetention,
    SafetyIdentifier,
    StrictFormat,
)
from src.api.openai.tools import TOOL_CHOICE, TOOLS, ParallelToolCalls
from src.api.structured import ANY_OBJECT
from src.engine.structured_output.source import GrammarSource, schema_source
from src.errors import FieldPath, InvalidRequestError
from src.tool_calling.choice import choose
from src.tool_calling.grammar import ToolChoice

OLD_CALLS = "it is the older form of tools"
AUDIO = "the served models read and write text alone"


class TextPart(WireRequest):
    """A piece of a message's text."""

    type: Literal["text"] = Field(description="`text` alone.")
    text: StrictStr = Field(description="The text; parts are joined by line ends.")


def _join_parts(content: object) -> object:
    """A message's content as one text: parts are joined by line ends."""
    if not isinstance(content, list):
        return content
    if len(content) > MAX_PARTS:
        raise PydanticCustomError(
            "too_long", "A message has at most {count} parts", {"count": MAX_PARTS}
        )
    for index, part in enumerate(content):
        is_part = isinstance(part, dict)
        if is_part and part.get("type") not in ("text", None):
            raise PydanticCustomError(
                "unsupported_parameter",
                "Part {index} is no text, and this model reads text alone",
                {"index": index},
            )
        if not is_part or part.keys() != {"type", "text"} or not isinstance(part["text"], str):
            raise PydanticCustomError(
                "invalid_value",
                'Part {index} must be {"type": "text", "text": "…"}',
                {"index": index},
            )
    return "\n".join(part["text"] for part in content)


_PartList = Annotated[list[TextPart], Field(max_length=MAX_PARTS)]
Content = Annotated[StrictStr, BeforeValidator(_join_parts, json_schema_input_type=str | _PartList)]


class ChatTurn(WireRequest):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description="Who speaks; `developer` is `system`."
    )
    content: Content | None = Field(
        default=None,
        description="What is said: a text, or a list of parts of text. Not needed beside calls.",
    )
    tool_calls: list[MessageCall] | None = Field(
        fail_fast=True,
        default=None,
        min_length=1,
        max_length=MAX_TOOLS,
        description="What the assistant calls.",
    )
    tool_call_id: StrictStr | None = Field(
        default=None, description="Of the role `tool`: which call this is the result of."
    )
    name: Annotated[StrictStr | None, NoEffect("chat templates know roles and contents alone")] = (
        None
    )
    refusal: Annotated[None, Refused("a refusal is written as content")] = None
    annotations: Annotated[SentBack | None, NoEffect(SENT_BACK)] = None
    parsed: Parsed = None
    audio: Annotated[None, Refused(AUDIO)] = None
    function_call: Annotated[None, Refused(OLD_CALLS)] = None


class JsonSchemaFormat(WireRequest):
    """JSON that a schema allows."""

    name: Annotated[FormatName, NAMED]
    description: FormatDescription = None
    json_schema: dict[str, Any] = Field(alias="schema", description="What the answer's JSON is.")
    strict: StrictFormat = None


class ResponseFormat(WireRequest):
    """How the answer is written."""

    type: Literal["text", "json_object", "json_schema"] = Field(
        description="Free text, any JSON object, or what `json_schema` says."
    )
    json_schema: JsonSchemaFormat | None = Field(
        default=None, description="With the type of the same name alone."
    )

    @model_validator(mode="after")
    def _has_a_schema_if_it_needs_one(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError(
                "invalid_value", "json_schema goes with the type json_schema, and with no other"
            )
        return self

    def grammar(self, field: FieldPath) -> GrammarSource | None:
        """What an answer in this format is; None is any text."""
        if self.type == "text":
            return None
        if self.json_schema is None:
            return schema_source(ANY_OBJECT, field)
        return schema_source(self.json_schema.json_schema, (*field, "json_schema", "schema"))


class ChatCompletionRequest(GenerationRequest):
    """A conversation to answer."""

    messages: list[ChatTurn] = Field(
        fail_fast=True,
        min_length=1,
        max_length=MAX_MESSAGES,
        description="The conversation so far.",
    )
    max_completion_tokens: NumTokens | None = Field(
        default=None,
        description="New tokens at most. Default: what the prompt leaves of the context.",
    )
    max_tokens: NumTokens | None = Field(default=None, description="The older name of the same.")
    logprobs: StrictBool | None = Field(
        default=None, description="Tell each new token's log-probability."
    )
    top_logprobs: NumLogprobs | None = Field(
        default=None,
        description="And those of so many most likely ones; with `logprobs` alone.",
    )
    response_format: ResponseFormat | None = Field(
        default=None, description="How the answer is written: text, or JSON; see below."
    )
    modalities: list[Literal["text"]] | None = Field(
        fail_fast=True, default=None, min_length=1, max_length=1, description="`text` alone."
    )
    tools: list[FunctionTool] | None = Field(
        fail_fast=True, default=None, max_length=MAX_TOOLS, description=TOOLS
    )
    tool_choice: ChatToolChoice = Field(default=None, description=TOOL_CHOICE)
    parallel_tool_calls: ParallelToolCalls = None
    functions: Annotated[None, Refused(OLD_CALLS)] = None
    function_call: Annotated[None, Refused(OLD_CALLS)] = None
    audio: Annotated[None, Refused(AUDIO)] = None
    moderation: Annotated[None, Refused("there is no moderation model")] = None
    prediction: Annotated[None, Refused("there is no speculation from a prediction")] = None
    reasoning_effort: Annotated[None, Refused("the served models do not reason apart")] = None
    verbosity: Annotated[None, Refused("ask for it in a message")] = None
    web_search_options: Annotated[None, Refused("nothing is searched")] = None
    chat_template: Annotated[
        None, Refused("a template is code; the server's operator sets CHAT_TEMPLATE")
    ] = None
    chat_template_kwargs: Annotated[None, Refused("as chat_template is")] = None
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

    @property
    def most_new_tokens(self) -> int | None:
        """By either of its names; None is what the prompt leaves."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def tools_to_call(self) -> ToolChoice | None:
        """Which tools the answer may or must call; None is none."""
        wanted = self.tool_choice or "auto"
        tools = [
            tool.function.to_engine(("tools", index, "function"))
            for index, tool in enumerate(self.tools or ())
        ]
        return choose(
            tools,
            wanted if isinstance(wanted, str) else wanted.to_engine(),
            is_parallel=self.parallel_tool_calls is not False,
        )

    @property
    def has_named_tool(self) -> bool:
        return isinstance(self.tool_choice, NamedToolChoice)

    @property
    def must_call(self) -> bool:
        """Whether the answer is a call, and no text."""
        return self.has_named_tool or self.tool_choice == "required"

    def grammars(self) -> list[GrammarSource]:
        """What the answer must look like, by each field that says so."""
        found = super().grammars()
        if self.response_format is not None:
            source = self.response_format.grammar(("response_format",))
            found += [source] if source else []
        return found

    def check(self) -> None:
        """Raises InvalidRequestError if fields do not go together."""
        super().check()
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            raise InvalidRequestError(
                "max_tokens and max_completion_tokens are names of the same; send one of them.",
                ("max_tokens",),
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs: true.", ("top_logprobs",))
        for name in ("tool_choice", "parallel_tool_calls"):
            if getattr(self, name) not in (None, "none") and not self.tools:
                raise InvalidRequestError(f"{name} needs tools.", (name,))
