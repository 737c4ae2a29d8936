"""Requests and responses of the native API, as they are on the wire."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
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

MAX_PROMPTS = 32
MAX_SEQUENCES = 16
MAX_FIELDS = 64
MAX_LOGPROBS = 20
MAX_SEED = 9_223_372_036_854_774_000
"""Below 2**63 with room for each sequence's own; /openapi.json writes bounds as doubles, and this
one is the same as a double."""

Prompt = Annotated[StrictStr, Field(min_length=1, examples=["Once upon a time"])]

TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,99}")


def _token_id(key: object) -> object:
    """A key of a JSON object is a text; pydantic would take " 5" and "1_0" for numbers too."""
    if isinstance(key, str) and not TOKEN_ID.fullmatch(key):
        raise PydanticCustomError("token_id", "A key must be a token id in digits")
    return key


TokenId = Annotated[
    int,
    Field(ge=0),
    BeforeValidator(
        _token_id, json_schema_input_type=Annotated[str, Field(pattern=f"^({TOKEN_ID.pattern})$")]
    ),
]
LogitBias = Annotated[
    dict[TokenId, Annotated[StrictFloat, Field(ge=-100, le=100)]],
    Field(max_length=1024, json_schema_extra={"additionalProperties": False}),
]
StopText = Annotated[StrictStr, Field(min_length=1, max_length=128)]
StopTexts = Annotated[
    list[StopText],
    Field(max_length=16),
    BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value,
        json_schema_input_type=StopText | Annotated[list[StopText], Field(max_length=16)],
    ),
]


JsonSchema = dict[str, Any] | StrictStr
"""A JSON schema, as an object or as the JSON of one."""


class StructuredOutputs(BaseModel):
    """What the answer must look like, in vLLM's words: exactly one of these."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    json_schema: JsonSchema | None = Field(
        default=None, alias="json", description="JSON that this schema allows."
    )
    regex: StrictStr | None = Field(
        default=None,
        min_length=1,
        description="A text that this regular expression matches as a whole.",
    )
    choice: list[Annotated[StrictStr, Field(min_length=1)]] | None = Field(
        default=None, min_length=1, description="One of these texts."
    )
    grammar: StrictStr | None = Field(
        default=None,
        min_length=1,
        description="A text of this context-free grammar, in llguidance's variant of Lark.",
    )
    json_object: StrictBool | None = Field(default=None, description="Any JSON object.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [getattr(self, name) for name in type(self).model_fields]
        if sum(value not in (None, False) for value in given) != 1:
            raise PydanticCustomError(
                "invalid_value", "Send exactly one of json, regex, choice, grammar, json_object"
            )
        return self


class SamplingFields(BaseModel):
    """What both generation requests have in common. A field left out takes the server's setting."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    max_length: StrictInt | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="Most new tokens to generate. Default: the server's MAX_LENGTH.",
        examples=[50],
    )
    temperature: StrictFloat | None = Field(
        default=None,
        ge=0,
        le=2,
        description="Randomness: 0 always takes the most likely token, 2 is wild."
        " Default: the server's TEMPERATURE.",
        examples=[0.7],
    )
    top_p: StrictFloat | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Only the most likely tokens whose probabilities add up to this."
        " Default: the server's TOP_P.",
        examples=[0.9],
    )
    top_k: StrictInt | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="Only this many of the most likely tokens; 0 is all of them, the default.",
        examples=[50],
    )
    num_return_sequences: StrictInt = Field(
        default=1,
        ge=1,
        le=MAX_SEQUENCES,
        description="How many continuations of each prompt.",
        examples=[1],
    )
    seed: StrictInt | None = Field(
        default=None,
        ge=0,
        le=MAX_SEED,
        description="Makes sampling repeatable: the same request gives the same answer. The i-th"
        " sequence of each prompt uses seed + i. Default: a new one each time.",
        examples=[42],
    )
    stop: StopTexts | None = Field(
        default=None,
        description="A text, or a list of up to 16, that ends the generation and is left out.",
        examples=[["\n\n"]],
    )
    min_length: StrictInt = Field(
        default=0,
        ge=0,
        description="Fewest new tokens: before so many neither an end token nor `stop` ends it.",
        examples=[0],
    )
    min_p: StrictFloat = Field(
        default=0,
        ge=0,
        le=1,
        description="Only tokens at least this share as likely as the most likely one; 0 is all.",
        examples=[0.05],
    )
    repetition_penalty: StrictFloat = Field(
        default=1,
        gt=0,
        le=10,
        description="Above 1, tokens of the prompt and the text so far become less likely.",
        examples=[1.0],
    )
    presence_penalty: StrictFloat = Field(
        default=0,
        ge=-2,
        le=2,
        description="Taken from the logit of each token that was generated already.",
        examples=[0.0],
    )
    frequency_penalty: StrictFloat = Field(
        default=0,
        ge=-2,
        le=2,
        description="The same, as many times as the token was generated.",
        examples=[0.0],
    )
    logit_bias: LogitBias = Field(
        default_factory=dict,
        description="Token id to what is added to its logit; -100 bans a token.",
        examples=[{}],
    )
    stop_token_ids: list[Annotated[StrictInt, Field(ge=0)]] = Field(
        default_factory=list,
        max_length=64,
        description="Tokens that end the generation, as the model's end tokens do.",
        examples=[[]],
    )
    ignore_eos: StrictBool = Field(
        default=False,
        description="The model's end tokens do not end the generation.",
        examples=[False],
    )
    logprobs: StrictInt | None = Field(
        default=None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Tell the log-probability of each new token, and of so many most likely ones.",
        examples=[None],
    )
    prompt_logprobs: StrictInt | None = Field(
        default=None,
        ge=0,
        le=MAX_LOGPROBS,
        description="The same of the prompt's tokens, but the first.",
        examples=[None],
    )
    structured_outputs: StructuredOutputs | None = Field(
        default=None,
        description="What the new text must look like. Default: anything.",
        examples=[None],
    )
    return_full_text: StrictBool = Field(
        default=True,
        description="Whether each text begins with the prompt.",
        examples=[True],
    )

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, body: object) -> object:
        """A body of thousands of unknown fields would get as many problems for an answer."""
        if isinstance(body, dict) and len(body) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", f"There are at most {MAX_FIELDS} fields")
        return body


class GenerateRequest(SamplingFields):
    """One prompt to continue."""

    prompt: Prompt = Field(description="The text to continue.")
    stream: StrictBool = Field(
        default=False,
        description="Send the text as it is made, as Server-Sent Events: `GenerateDelta`s, then"
        " `[DONE]`.",
        examples=[False],
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "prompt": "Once upon a time",
                    "max_length": 50,
                    "temperature": 0.7,
                    "num_return_sequences": 1,
                }
            ]
        }
    )


class GenerateBatchRequest(SamplingFields):
    """Several prompts to continue in the same way."""

    prompts: list[Prompt] = Field(
        min_length=1, max_length=MAX_PROMPTS, description="The texts to continue."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "prompts": ["The capital of France is", "The future of AI is"],
                    "max_length": 20,
                    "temperature": 0,
                }
            ]
        }
    )


Ending = Literal["stop", "length"]


class TokenLogprob(BaseModel):
    """A token and the natural logarithm of its probability, before sampling changed it."""

    id: int = Field(description="The token's id.")
    token: str = Field(description="How it is written; a piece of a character is U+FFFD.")
    logprob: float


class PositionLogprobs(TokenLogprob):
    """The token that stands at one position, and the most likely ones there."""

    top: list[TokenLogprob] = Field(description="Most likely first; may hold the token itself.")


class GeneratedText(BaseModel):
    """One continuation."""

    text: str = Field(
        description="The prompt and what follows it; with `return_full_text: false` the latter."
    )
    tokens: int = Field(description="Number of new tokens, an end token included.")
    finish_reason: Ending = Field(
        description="`stop`: an end token or a stop text came. `length`: max_length."
    )
    logprobs: list[PositionLogprobs] | None = Field(
        default=None, description="One for each new token, if they were asked for."
    )


class GenerateResponse(BaseModel):
    """All continuations of one prompt."""

    generated: list[GeneratedText]
    model: str = Field(description="The server's MODEL_NAME.")
    prompt_tokens: int = Field(description="Number of tokens in the prompt.")
    prompt_logprobs: list[PositionLogprobs] | None = Field(
        default=None, description="For the prompt's tokens but the first, if they were asked for."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "generated": [
                        {
                            "text": "The capital of France is Paris.",
                            "tokens": 3,
                            "finish_reason": "stop",
                        }
                    ],
                    "model": "storyteller",
                    "prompt_tokens": 5,
                }
            ]
        }
    )


class GenerateDelta(BaseModel):
    """What is new in one sequence of a stream; all texts of an index make up its whole text.

    The last one of each sequence has a finish reason and the counts.
    """

    index: int = Field(description="Which of the sequences, from 0.")
    text: str
    finish_reason: Ending | None = Field(description="null before the last delta.")
    tokens: int | None = Field(default=None, description="Number of new tokens in all.")
    prompt_tokens: int | None = Field(default=None, description="As without a stream.")
    logprobs: list[PositionLogprobs] | None = Field(
        default=None, description="For the tokens that came since the last delta."
    )
    prompt_logprobs: list[PositionLogprobs] | None = Field(
        default=None, description="In the first delta, if they were asked for."
    )


class StreamError(BaseModel):
    """Why a stream ends before its time."""

    message: str
    code: int = Field(description="The status that the answer would have had.")


class StreamErrorEvent(BaseModel):
    """The data of the event `error`, the last of a stream that failed."""

    error: StreamError


class HealthResponse(BaseModel):
    """Whether the service can do its work."""

    status: Literal["healthy", "loading", "unhealthy"]
    model_loaded: bool = Field(description="Whether the model is in memory.")
    version: str = Field(description="The service's version.", examples=["0.1.0"])


class ErrorResponse(BaseModel):
    """Why there is no answer."""

    detail: str


class FieldProblem(BaseModel):
    """One thing that is wrong with a request."""

    type: str = Field(examples=["greater_than_equal"])
    loc: list[str | int] = Field(description="Where it is.", examples=[["body", "max_length"]])
    msg: str = Field(examples=["Input should be greater than or equal to 1"])


class ValidationErrorResponse(BaseModel):
    """Everything that is wrong with a request."""

    detail: list[FieldProblem]


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for its documentation."""
    return {status: ERRORS[status] for status in statuses}


ERRORS: dict[int, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The body cannot be parsed."},
    413: {"model": ErrorResponse, "description": "The body is larger than MAX_BODY_BYTES."},
    415: {"model": ErrorResponse, "description": "The body is not sent as JSON."},
    422: {"model": ValidationErrorResponse, "description": "The request cannot be used as it is."},
    429: {"model": ErrorResponse, "description": "Too many requests; see Retry-After."},
    500: {"model": ErrorResponse, "description": "The model failed on this request."},
    503: {
        "model": ErrorResponse,
        "description": "The model is loading, too many requests wait (see Retry-After), or the"
        " engine has ended.",
    },
    504: {"model": ErrorResponse, "description": "The request took longer than TIMEOUT_SECONDS."},
}
