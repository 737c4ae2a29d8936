"""Requests and responses of the native API, as they are on the wire."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)

from src.api.field_types import (
    Count,
    LogitBias,
    MinP,
    NumLogprobs,
    NumTokens,
    Penalty,
    RepetitionPenalty,
    Seed,
    StopTexts,
    StopTokenIds,
    StructuredOutputs,
    Temperature,
    TopP,
    has_few_fields,
)

MAX_PROMPTS = 32
MAX_SEQUENCES = 16

Prompt = Annotated[StrictStr, Field(min_length=1, examples=["Once upon a time"])]


class SamplingFields(BaseModel):
    """What both generation requests have in common. A field left out takes the server's setting."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    max_length: NumTokens | None = Field(
        default=None,
        description="Most new tokens to generate. Default: the server's MAX_LENGTH.",
        examples=[50],
    )
    temperature: Temperature | None = Field(
        default=None,
        description="Randomness: 0 always takes the most likely token, 2 is wild."
        " Default: the server's TEMPERATURE.",
        examples=[0.7],
    )
    top_p: TopP | None = Field(
        default=None,
        description="Only the most likely tokens whose probabilities add up to this."
        " Default: the server's TOP_P.",
        examples=[0.9],
    )
    top_k: Count | None = Field(
        default=None,
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
    seed: Seed | None = Field(
        default=None,
        description="Makes sampling repeatable: the same request gives the same answer. The i-th"
        " sequence of each prompt uses seed + i. Default: a new one each time.",
        examples=[42],
    )
    stop: StopTexts | None = Field(
        default=None,
        description="A text, or a list of some, that ends the generation and is left out.",
        examples=[["\n\n"]],
    )
    min_length: StrictInt = Field(
        default=0,
        ge=0,
        description="Fewest new tokens: before so many neither an end token nor `stop` ends it.",
        examples=[0],
    )
    min_p: MinP = Field(
        default=0,
        description="Only tokens at least this share as likely as the most likely one; 0 is all.",
        examples=[0.05],
    )
    repetition_penalty: RepetitionPenalty = Field(
        default=1,
        description="Above 1, tokens of the prompt and the text so far become less likely.",
        examples=[1.0],
    )
    presence_penalty: Penalty = Field(
        default=0,
        description="Taken from the logit of each token that was generated already.",
        examples=[0.0],
    )
    frequency_penalty: Penalty = Field(
        default=0,
        description="The same, as many times as the token was generated.",
        examples=[0.0],
    )
    logit_bias: LogitBias = Field(
        default_factory=dict,
        description="Token id to what is added to its logit; -100 bans a token.",
        examples=[{}],
    )
    stop_token_ids: StopTokenIds = Field(
        default_factory=list,
        description="Tokens that end the generation, as the model's end tokens do.",
        examples=[[]],
    )
    ignore_eos: StrictBool = Field(
        default=False,
        description="The model's end tokens do not end the generation.",
        examples=[False],
    )
    logprobs: NumLogprobs | None = Field(
        default=None,
        description="Tell the log-probability of each new token, and of so many most likely ones.",
        examples=[None],
    )
    prompt_logprobs: NumLogprobs | None = Field(
        default=None,
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

    _has_few_fields = model_validator(mode="before")(has_few_fields)


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
        fail_fast=True, min_length=1, max_length=MAX_PROMPTS, description="The texts to continue."
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
    logprobs: Iterable[PositionLogprobs] | None = Field(
        default=None, description="One for each new token, if they were asked for."
    )


class GenerateResponse(BaseModel):
    """All continuations of one prompt."""

    generated: list[GeneratedText]
    model: str = Field(description="The server's MODEL_NAME.")
    prompt_tokens: int = Field(description="Number of tokens in the prompt.")
    prompt_logprobs: Iterable[PositionLogprobs] | None = Field(
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


class BatchResponse(RootModel[Iterable[GenerateResponse]]):
    """The answers to several prompts, in their order."""


class GenerateDelta(BaseModel):
    """What is new in one sequence of a stream; all texts of an index make up its whole text.

    The last one of each sequence has a finish reason and the counts.
    """

    index: int = Field(description="Which of the sequences, from 0.")
    text: str
    finish_reason: Ending | None = Field(description="null before the last delta.")
    tokens: int | None = Field(default=None, description="Number of new tokens in all.")
    prompt_tokens: int | None = Field(default=None, description="As without a stream.")
    logprobs: Iterable[PositionLogprobs] | None = Field(
        default=None, description="For the tokens that came since the last delta."
    )
    prompt_logprobs: Iterable[PositionLogprobs] | None = Field(
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

    status: Literal["healthy", "loading", "stopping", "unhealthy"]
    model_loaded: bool = Field(description="Whether the model is in memory.")
    version: str = Field(description="The service's version.", examples=["0.1.0"])
