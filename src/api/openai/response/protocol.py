"""Requests of `/v1/responses`, as they are on the wire."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from src.api.openai.fields import MAX_TOKENS, NoEffect, OnlyFalse, OpenAIRequest, Refused
from src.api.structured import ANY_OBJECT
from src.engine.chat_template import ChatMessage
from src.engine.grammar import GrammarSource, schema_source
from src.engine.sampling_params import MAX_LOGPROBS
from src.errors import InvalidRequestError

MAX_ITEMS = 2048
LOGPROBS = "message.output_text.logprobs"
TOOLS = "the served models call no tools"
STATE = "nothing is stored here; send the whole conversation as input"
SENT_BACK = "clients send answers back as they came"


class InputPart(OpenAIRequest):
    """A piece of a message's text."""

    type: Literal["input_text", "output_text"] = Field(description="A client's, or an answer's.")
    text: StrictStr = Field(description="The text; parts are joined by line ends.")
    annotations: Annotated[list[Any] | None, NoEffect(SENT_BACK)] = None
    logprobs: Annotated[list[Any] | None, NoEffect(SENT_BACK)] = None


def _only_text(content: object) -> object:
    """Refuses other parts than text by name; a text is one part."""
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    return _only_types(content, ("input_text", "output_text"), "Part")


def _only_messages(value: object) -> object:
    """Refuses other items than messages by name; a text is the user's message."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    return _only_types(value, ("message",), "Item")


def _only_types(value: object, known: tuple[str, ...], what: str) -> object:
    for index, one in enumerate(value if isinstance(value, list) else ()):
        kind = one.get("type") if isinstance(one, dict) else None
        if isinstance(kind, str) and kind not in known:
            raise PydanticCustomError(
                "unsupported_parameter",
                "{what} {index} is of type {kind}; known are: {known}",
                {
                    "what": what,
                    "index": index,
                    "kind": kind[:40].encode("utf-8", "replace").decode(),
                    "known": ", ".join(known),
                },
            )
    return value


class InputMessage(OpenAIRequest):
    """One turn of the conversation, as a client writes it or as an answer had it."""

    role: Literal["user", "assistant", "system", "developer"] = Field(
        description="Who speaks; `developer` is `system`."
    )
    content: Annotated[
        list[InputPart],
        BeforeValidator(_only_text, json_schema_input_type=StrictStr | list[InputPart]),
    ] = Field(description="What is said: a text, or a list of parts of text.")
    type: Annotated[Literal["message"] | None, NoEffect("there are messages alone")] = None
    id: Annotated[StrictStr | None, NoEffect(SENT_BACK)] = None
    status: Annotated[StrictStr | None, NoEffect(SENT_BACK)] = None
    phase: Annotated[StrictStr | None, NoEffect(SENT_BACK)] = None

    def to_engine(self) -> ChatMessage:
        role = "system" if self.role == "developer" else self.role
        return ChatMessage(role, "\n".join(part.text for part in self.content))


class TextFormat(OpenAIRequest):
    """How the answer is written."""

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


class ResponseStreamOptions(OpenAIRequest):
    """What a stream tells beside the text."""

    include_obfuscation: Annotated[
        OnlyFalse | None, NoEffect("events are never padded; only false is accepted")
    ] = None


class ResponseRequest(OpenAIRequest):
    """A conversation to answer. Null is what leaving out is."""

    model: StrictStr = Field(description="The served model, as /v1/models names it.")
    input: Annotated[
        list[InputMessage],
        Field(min_length=1, max_length=MAX_ITEMS),
        BeforeValidator(
            _only_messages,
            json_schema_input_type=StrictStr
            | Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_ITEMS)],
        ),
    ] = Field(description="The conversation so far: a text of the user's, or messages.")
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
    parallel_tool_calls: Annotated[StrictBool | None, NoEffect("there are no tools")] = None
    tool_choice: Annotated[Literal["none", "auto"] | None, NoEffect("there are no tools")] = None
    stream_options: Annotated[
        ResponseStreamOptions | None, NoEffect("its one field has no effect")
    ] = None
    tools: Annotated[None, Refused(TOOLS)] = None
    max_tool_calls: Annotated[None, Refused(TOOLS)] = None
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

    def check(self) -> None:
        """Raises InvalidRequestError if fields do not go together."""
        if self.top_logprobs is not None and not self.include:
            raise InvalidRequestError(
                f'top_logprobs needs include: ["{LOGPROBS}"].', ("top_logprobs",)
            )

    def to_engine(self) -> list[ChatMessage]:
        """The conversation, with what the system says before it."""
        before = [] if self.instructions is None else [ChatMessage("system", self.instructions)]
        return before + [message.to_engine() for message in self.input]
