"""What the fields of OpenAI's requests have in common, and those that all generations share."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr

from src.api.field_types import (
    MAX_TOKENS,
    Choices,
    Count,
    JsonSchema,
    LogitBias,
    Metadata,
    MinP,
    Penalty,
    RepetitionPenalty,
    Seed,
    StopTexts,
    StopTokenIds,
    StructuredOutputs,
)
from src.api.fields import ModelName, NoEffect, OnlyFalse, TemperatureField, TopPField, WireRequest
from src.api.structured import structured_source
from src.engine.structured_output.source import GrammarSource
from src.errors import InvalidRequestError

MAX_SEQUENCES = 128
"""So many choices at most for each prompt."""

# Both 0 and -1 are all tokens: clients were made for servers that know one or the other.
TopK = Annotated[StrictInt, Field(ge=-1, le=MAX_TOKENS), AfterValidator(lambda k: max(k, 0))]


class StreamOptions(WireRequest):
    """What a stream tells beside the text."""

    include_usage: StrictBool | None = Field(
        default=None, description="A last chunk without choices tells the usage."
    )
    include_obfuscation: Annotated[
        OnlyFalse | None, NoEffect("chunks are never padded; only false is accepted")
    ] = None


# What clients send for their own purposes, wherever conversations are answered.
User = Annotated[StrictStr | None, NoEffect("users are not told apart by it")]
SafetyIdentifier = Annotated[StrictStr | None, NoEffect("users are not told apart")]
PromptCacheKey = Annotated[
    StrictStr | None, NoEffect("common beginnings of prompts are found without it")
]
PromptCacheRetention = Annotated[Literal["in_memory"] | None, NoEffect("it is what is done")]
ServiceTier = Annotated[Literal["auto", "default"] | None, NoEffect("there is one tier")]
FormatName = Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
NAMED = NoEffect("it names the schema for those who write it")
FormatDescription = Annotated[StrictStr | None, NoEffect("say in a message what is wanted")]
StrictFormat = Annotated[StrictBool | None, NoEffect("answers always keep to the schema")]


class GenerationRequest(WireRequest):
    """What completions and chat completions have in common. Null is what leaving out is."""

    model: ModelName
    temperature: TemperatureField = None
    top_p: TopPField = None
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
        description="A text, or a list of some, that ends the generation and is left out.",
    )
    presence_penalty: Penalty | None = Field(
        default=None,
        description="Taken from the logit of each token that was generated already.",
    )
    frequency_penalty: Penalty | None = Field(
        default=None,
        description="The same, as many times as the token was generated.",
    )
    logit_bias: LogitBias | None = Field(
        default=None, description="Token id to what is added to its logit; -100 bans a token."
    )
    seed: Seed | None = Field(
        default=None,
        description="Makes sampling repeatable. The i-th choice of each prompt uses seed + i.",
    )
    top_k: TopK | None = Field(
        default=None,
        description="Extension: only this many of the most likely tokens; 0 and -1 are all.",
    )
    min_p: MinP | None = Field(
        default=None,
        description="Extension: only tokens at least this share as likely as the likeliest.",
    )
    repetition_penalty: RepetitionPenalty | None = Field(
        default=None,
        description="Extension: above 1, tokens of prompt and text become less likely.",
    )
    min_tokens: Count | None = Field(
        default=None,
        description="Extension: before so many neither an end token nor `stop` ends it.",
    )
    stop_token_ids: StopTokenIds | None = Field(
        default=None,
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
    guided_choice: Choices | None = Field(
        default=None, description="Likewise of `structured_outputs.choice`."
    )
    guided_grammar: StrictStr | None = Field(
        default=None, min_length=1, description="Likewise of `structured_outputs.grammar`."
    )
    user: User = None
    metadata: Annotated[Metadata | None, NoEffect("it tags stored answers; nothing is stored")] = (
        None
    )
    store: Annotated[OnlyFalse | None, NoEffect("nothing is stored; only false is accepted")] = None
    service_tier: ServiceTier = None

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
