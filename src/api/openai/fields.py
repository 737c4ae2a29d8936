"""Types of fields in OpenAI's requests, and the fields that completions and chats share."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr

from src.api.chat.thinking import Effort
from src.api.fields.bounds import (
    MAX_TOKENS,
    Choices,
    Count,
    JsonSchema,
    LogitBias,
    LogprobsModeField,
    Metadata,
    MinP,
    Penalty,
    RepetitionPenalty,
    Seed,
    StopTexts,
    StopTokenIds,
    StructuredOutputs,
)
from src.api.fields.priority import PriorityField, ServiceTier
from src.api.fields.shared import (
    ANYTHING,
    ModelName,
    NoEffect,
    TemperatureField,
    TopPField,
    WireRequest,
)
from src.api.fields.structured import structured_source
from src.api.fields.timings import TimingsField
from src.engine.structured_output.source import GrammarSource
from src.errors import InvalidRequestError

MAX_SEQUENCES = 128
"""Maximum number of choices for each prompt."""

# 0 and -1 both mean all tokens: servers differ in this, and so do their clients.
TopK = Annotated[StrictInt, Field(ge=-1, le=MAX_TOKENS), AfterValidator(lambda k: max(k, 0))]


class StreamOptions(WireRequest):
    """Options of a stream."""

    include_usage: StrictBool | None = Field(
        default=None, description="Send the usage in a last chunk without choices."
    )
    include_obfuscation: Annotated[
        StrictBool | None, NoEffect("chunks are never padded", silent=(False,))
    ] = None


# Fields of several requests that have no effect here.
User = Annotated[StrictStr | None, NoEffect("users are not distinguished by it")]
SafetyIdentifier = Annotated[StrictStr | None, NoEffect("users are not distinguished")]
PromptCacheKey = Annotated[StrictStr | None, NoEffect("prompt prefixes are cached without it")]
PromptCacheRetention = Annotated[
    StrictStr | None, NoEffect("the cache is always in memory", silent=("in_memory",))
]
Verbosity = Annotated[
    Literal["low", "medium", "high"] | None,
    NoEffect("ask for it in a message", silent=("medium",)),
]
Store = Annotated[StrictBool | None, NoEffect("nothing is stored", silent=(False,))]
FormatName = Annotated[StrictStr, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
NAMED = NoEffect("the name is not used", silent=ANYTHING)
FormatDescription = Annotated[StrictStr | None, NoEffect("describe the format in a message")]
StrictFormat = Annotated[
    StrictBool | None, NoEffect("answers always follow the schema", silent=ANYTHING)
]
ReasoningEffort = Annotated[
    Effort | None,
    Field(
        description="`none` turns thinking off, any other level on; templates that know levels get"
        " it. Models that cannot think ignore it."
    ),
]


class GenerationRequest(WireRequest):
    """Fields that completions and chat completions share. Null is the same as leaving out."""

    model: ModelName
    temperature: TemperatureField = None
    top_p: TopPField = None
    n: StrictInt | None = Field(
        default=None, ge=1, le=MAX_SEQUENCES, description="Choices for each prompt. Default: 1."
    )
    stream: StrictBool | None = Field(
        default=None, description="Send chunks as they are generated, as Server-Sent Events."
    )
    stream_options: StreamOptions | None = Field(
        default=None, description="Options of a stream; needs `stream`."
    )
    stop: StopTexts | None = Field(
        default=None,
        description="Text, or list of texts, that ends the generation and is left out.",
    )
    presence_penalty: Penalty | None = Field(
        default=None,
        description="Subtracted from the logit of each token generated before.",
    )
    frequency_penalty: Penalty | None = Field(
        default=None,
        description="Subtracted from a token's logit once for each time it was generated.",
    )
    logit_bias: LogitBias | None = Field(
        default=None, description="Token id to the number added to its logit; -100 bans the token."
    )
    seed: Seed | None = Field(
        default=None,
        description="Seed of repeatable sampling. The i-th choice of each prompt uses seed + i.",
    )
    top_k: TopK | None = Field(
        default=None,
        description="Extension: sample among this many most likely tokens; 0 and -1 are all."
        " Default: the model's, then all.",
    )
    min_p: MinP | None = Field(
        default=None,
        description="Extension: minimum probability, as a share of the most likely token's."
        " Default: the model's, then 0.",
    )
    repetition_penalty: RepetitionPenalty | None = Field(
        default=None,
        description="Extension: above 1, tokens of the prompt and the answer become less likely."
        " Default: the model's, then 1.",
    )
    min_tokens: Count | None = Field(
        default=None,
        description="Extension: minimum of new tokens before an end token or `stop` ends it.",
    )
    stop_token_ids: StopTokenIds | None = Field(
        default=None,
        description="Extension: ids of further end tokens.",
    )
    ignore_eos: StrictBool | None = Field(
        default=None, description="Extension: generate on after the model's end tokens."
    )
    logprobs_mode: LogprobsModeField = None
    timings: TimingsField = None
    structured_outputs: StructuredOutputs | None = Field(
        default=None, description="Extension: required format of the answer; see below."
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
    store: Store = None
    priority: PriorityField = None
    service_tier: ServiceTier = None

    @property
    def num_choices(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def grammars(self) -> list[GrammarSource]:
        """Returns a grammar for each field that requires a format; raises as `schema_source`."""
        sources = []
        if self.structured_outputs is not None:
            sources.append(structured_source(self.structured_outputs))
        for name in ("json", "regex", "choice", "grammar"):
            value = getattr(self, f"guided_{name}")
            if value is not None:
                structured = StructuredOutputs.model_validate({name: value})
                sources.append(structured_source(structured, lambda name: (f"guided_{name}",)))
        return sources

    def check(self) -> None:
        """Raises InvalidRequestError if fields contradict each other."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError(
                "stream_options needs stream: true. Leave it out, or ask for a stream.",
                ("stream_options",),
            )
