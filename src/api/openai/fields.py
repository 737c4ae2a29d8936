"""What the fields of OpenAI's requests have in common, and those that all generations share.

A field is honoured, or marked `NoEffect`, or marked `Refused`; any other is refused as unknown.
docs/openai.md holds the table of all of them, which is made from these models.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from src.api.structured import structured_source
from src.engine.grammar import GrammarSource
from src.errors import InvalidRequestError
from src.models import (
    MAX_FIELDS,
    MAX_SEED,
    JsonSchema,
    LogitBias,
    StopTexts,
    StructuredOutputs,
)

MAX_SEQUENCES = 128
"""So many choices at most for each prompt."""

MAX_TOKENS = 2**31 - 1

# Both 0 and -1 are all tokens: clients were made for servers that know one or the other.
TopK = Annotated[StrictInt, Field(ge=-1, le=MAX_TOKENS), AfterValidator(lambda k: max(k, 0))]


def _is_false(value: object) -> object:
    """0 equals False in Python, and is another value in JSON."""
    if value is not False and value is not None:
        raise PydanticCustomError("literal_error", "Input should be false")
    return value


OnlyFalse = Annotated[Literal[False], BeforeValidator(_is_false)]


@dataclass(frozen=True, slots=True)
class NoEffect:
    """Marks a field that clients send for their own purposes, and says why nothing comes of it."""

    why: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"description": f"Accepted without effect: {self.why}"}


@dataclass(frozen=True, slots=True)
class Refused:
    """Marks a field that is refused by name, and says why; null is what leaving it out is."""

    why: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"description": f"Refused: {self.why}"}

    def _check(self, value: object) -> object:
        if value is not None:
            raise PydanticCustomError(
                "unsupported_parameter", "It is not supported: {why}", {"why": self.why}
            )
        return value


class OpenAIRequest(BaseModel):
    """Any request of this API: unknown fields and numbers that are none are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, body: object) -> object:
        if isinstance(body, dict) and len(body) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", f"There are at most {MAX_FIELDS} fields")
        return body


class StreamOptions(OpenAIRequest):
    """What a stream tells beside the text."""

    include_usage: StrictBool | None = Field(
        default=None, description="A last chunk without choices tells the usage."
    )
    include_obfuscation: Annotated[
        OnlyFalse | None, NoEffect("chunks are never padded; only false is accepted")
    ] = None


class GenerationRequest(OpenAIRequest):
    """What completions and chat completions have in common. Null is what leaving out is."""

    model: StrictStr = Field(description="The served model, as /v1/models names it.")
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
    n: StrictInt | None = Field(
        default=None, ge=1, le=MAX_SEQUENCES, description="Choices for each prompt. Default: 1."
    )
    stream: StrictBool | None = Field(
        default=None, description="Send chunks as they are made, as Server-Sent Events."
    )
    stream_options: StreamOptions | None = Field(
        default=None, description="What a stream tells beside the text; with `stream` alone."
    )
    stop: StopTexts | None = Field(
        default=None,
        description="A text, or a list of up to 16, that ends the generation and is left out.",
    )
    presence_penalty: StrictFloat | None = Field(
        default=None,
        ge=-2,
        le=2,
        description="Taken from the logit of each token that was generated already.",
    )
    frequency_penalty: StrictFloat | None = Field(
        default=None,
        ge=-2,
        le=2,
        description="The same, as many times as the token was generated.",
    )
    logit_bias: LogitBias | None = Field(
        default=None, description="Token id to what is added to its logit; -100 bans a token."
    )
    seed: StrictInt | None = Field(
        default=None,
        ge=0,
        le=MAX_SEED,
        description="Makes sampling repeatable. The i-th choice of each prompt uses seed + i.",
    )
    top_k: TopK | None = Field(
        default=None,
        description="Extension: only this many of the most likely tokens; 0 and -1 are all.",
    )
    min_p: StrictFloat | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Extension: only tokens at least this share as likely as the likeliest.",
    )
    repetition_penalty: StrictFloat | None = Field(
        default=None,
        gt=0,
        le=10,
        description="Extension: above 1, tokens of prompt and text become less likely.",
    )
    min_tokens: StrictInt | None = Field(
        default=None,
        ge=0,
        le=MAX_TOKENS,
        description="Extension: before so many neither an end token nor `stop` ends it.",
    )
    stop_token_ids: list[Annotated[StrictInt, Field(ge=0)]] | None = Field(
        default=None,
        max_length=64,
        description="Extension: tokens that end the generation, as the model's end tokens do.",
    )
    ignore_eos: StrictBool | None = Field(
        default=None, description="Extension: the model's end tokens do not end the generation."
    )
    structured_outputs: StructuredOutputs | None = Field(
        default=None, description="Extension: what the answer must look like; see below."
    )
    guided_json: JsonSchema | None = Field(
        default=None, description="Extension: an older name of `structured_outputs.json`."
    )
    guided_regex: StrictStr | None = Field(
        default=None, min_length=1, description="Likewise of `structured_outputs.regex`."
    )
    guided_choice: list[Annotated[StrictStr, Field(min_length=1)]] | None = Field(
        default=None, min_length=1, description="Likewise of `structured_outputs.choice`."
    )
    guided_grammar: StrictStr | None = Field(
        default=None, min_length=1, description="Likewise of `structured_outputs.grammar`."
    )
    user: Annotated[StrictStr | None, NoEffect("users are not told apart by it")] = None
    metadata: Annotated[
        dict[StrictStr, StrictStr] | None, NoEffect("it tags stored answers; nothing is stored")
    ] = None
    store: Annotated[OnlyFalse | None, NoEffect("nothing is stored; only false is accepted")] = None
    service_tier: Annotated[Literal["auto", "default"] | None, NoEffect("there is one tier")] = None

    @property
    def num_choices(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def grammars(self) -> list[GrammarSource]:
        """What the answer must look like, by each field that says so. Raises as `schema_source`."""
        found = []
        if self.structured_outputs is not None:
            found.append(structured_source(self.structured_outputs))
        for name in ("json", "regex", "choice", "grammar"):
            value = getattr(self, f"guided_{name}")
            if value is not None:
                structured = StructuredOutputs.model_validate({name: value})
                found.append(structured_source(structured, lambda name: (f"guided_{name}",)))
        return found

    def check(self) -> None:
        """Refuses fields that do not go together.

        Raises:
            InvalidRequestError: and names one of them.
        """
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError(
                "stream_options needs stream: true. Leave it out, or ask for a stream.",
                ("stream_options",),
            )
