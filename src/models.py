"""Wire models of the native API's requests and answers."""

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

from src.api.fields.bounds import (
    Count,
    LogitBias,
    LogprobsModeField,
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
from src.api.fields.priority import PriorityField
from src.api.fields.timings import Timings, TimingsField

MAX_PROMPTS = 32
MAX_SEQUENCES = 16

Prompt = Annotated[StrictStr, Field(min_length=1, examples=["Once upon a time"])]


class SamplingFields(BaseModel):
    """Fields that both generation requests share."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    max_length: NumTokens | None = Field(
        default=None,
        description="Maximum number of new tokens. Default: the server's MAX_LENGTH.",
        examples=[50],
    )
    temperature: Temperature | None = Field(
        default=None,
        description="Sampling temperature; 0 is greedy. Default: TEMPERATURE, then the model's,"
        " then 0.7.",
        examples=[0.7],
    )
    top_p: TopP | None = Field(
        default=None,
        description="Sample among the most likely tokens whose probabilities add up to this."
        " Default: TOP_P, then the model's, then 0.9.",
        examples=[0.9],
    )
    top_k: Count | None = Field(
        default=None,
        description="Sample among this many most likely tokens; 0 is all. Default: the model's,"
        " then 0.",
        examples=[50],
    )
    num_return_sequences: StrictInt = Field(
        default=1,
        ge=1,
        le=MAX_SEQUENCES,
        description="Number of continuations of each prompt.",
        examples=[1],
    )
    seed: Seed | None = Field(
        default=None,
        description="Seed of repeatable sampling: the same request gives the same answer. The i-th"
        " sequence of each prompt uses seed + i. Default: random.",
        examples=[42],
    )
    stop: StopTexts | None = Field(
        default=None,
        description="Text, or list of texts, that ends the generation and is left out.",
        examples=[["\n\n"]],
    )
    priority: PriorityField = None
    min_length: StrictInt = Field(
        default=0,
        ge=0,
        description="Minimum of new tokens before an end token or `stop` ends the generation.",
        examples=[0],
    )
    min_p: MinP | None = Field(
        default=None,
        description="Minimum probability, as a share of the most likely token's; 0 is none."
        " Default: the model's, then 0.",
        examples=[0.05],
    )
    repetition_penalty: RepetitionPenalty | None = Field(
        default=None,
        description="Above 1, tokens of the prompt and the new text become less likely. Default:"
        " the model's, then 1.",
        examples=[1.0],
    )
    presence_penalty: Penalty = Field(
        default=0,
        description="Subtracted from the logit of each token generated before.",
        examples=[0.0],
    )
    frequency_penalty: Penalty = Field(
        default=0,
        description="Subtracted from a token's logit once for each time it was generated.",
        examples=[0.0],
    )
    logit_bias: LogitBias = Field(
        default_factory=dict,
        description="Token id to the number added to its logit; -100 bans the token.",
        examples=[{}],
    )
    stop_token_ids: StopTokenIds = Field(
        default_factory=list,
        description="Ids of further end tokens.",
        examples=[[]],
    )
    ignore_eos: StrictBool = Field(
        default=False,
        description="Generate on after the model's end tokens.",
        examples=[False],
    )
    logprobs: NumLogprobs | None = Field(
        default=None,
        description="Return log-probabilities of each new token and of this many most likely ones.",
        examples=[None],
    )
    logprobs_mode: LogprobsModeField = Field(default=None, examples=[None])
    prompt_logprobs: NumLogprobs | None = Field(
        default=None,
        description="Likewise for the prompt's tokens except the first.",
        examples=[None],
    )
    structured_outputs: StructuredOutputs | None = Field(
        default=None,
        description="Required format of the new text. Default: any text.",
        examples=[None],
    )
    return_full_text: StrictBool = Field(
        default=True,
        description="Begin each text with the prompt.",
        examples=[True],
    )

    _has_few_fields = model_validator(mode="before")(has_few_fields)


class GenerateRequest(SamplingFields):
    """One prompt to continue."""

    prompt: Prompt = Field(description="The text to continue.")
    timings: TimingsField = Field(default=None, examples=[False])
    stream: StrictBool = Field(
        default=False,
        description="Send the text during generation, as Server-Sent Events: `GenerateDelta`s, then"
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
    """A token and the natural logarithm of its probability, or as `logprobs_mode` says."""

    id: int = Field(description="The token's id.")
    token: str = Field(description="Text; U+FFFD for incomplete characters.")
    logprob: float


class PositionLogprobs(TokenLogprob):
    """A token and the most likely tokens at its position."""

    top: list[TokenLogprob] = Field(description="Most likely first; may include the token itself.")


class GeneratedText(BaseModel):
    """One continuation."""

    text: str = Field(
        description="The prompt and the new text; with `return_full_text: false` the new text."
    )
    tokens: int = Field(description="Number of new tokens, including an end token.")
    finish_reason: Ending = Field(
        description="`stop`: an end token or stop text. `length`: max_length."
    )
    logprobs: Iterable[PositionLogprobs] | None = Field(
        default=None, description="One for each new token, if requested."
    )


class GenerateResponse(BaseModel):
    """All continuations of one prompt."""

    generated: list[GeneratedText]
    model: str = Field(description="The served model's name.")
    prompt_tokens: int = Field(description="Number of tokens in the prompt.")
    prompt_logprobs: Iterable[PositionLogprobs] | None = Field(
        default=None, description="For the prompt's tokens except the first, if requested."
    )
    timings: Timings | None = Field(default=None, description="If requested.")

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
    """New text of one sequence of a stream.

    The last delta of each sequence has the finish reason and the counts.
    """

    index: int = Field(description="Index of the sequence.")
    text: str
    finish_reason: Ending | None = Field(description="null before the last delta.")
    tokens: int | None = Field(default=None, description="Total number of new tokens.")
    prompt_tokens: int | None = Field(default=None, description="Number of tokens in the prompt.")
    logprobs: Iterable[PositionLogprobs] | None = Field(
        default=None, description="For the tokens since the last delta."
    )
    prompt_logprobs: Iterable[PositionLogprobs] | None = Field(
        default=None, description="In the first delta, if requested."
    )
    timings: Timings | None = Field(
        default=None, description="In the last delta of all, if requested."
    )


class StreamError(BaseModel):
    """Error that ended a stream."""

    message: str
    code: int = Field(description="Status that the answer would have had.")


class StreamErrorEvent(BaseModel):
    """Data of the event `error`, the last one of a stream that failed."""

    error: StreamError


class ServiceLinks(BaseModel):
    """Paths of the service's entry points."""

    name: Literal["LLM inference"] = "LLM inference"
    version: str = Field(description="The service's version.", examples=["0.1.0"])
    docs: Literal["/docs"] = "/docs"
    openapi: Literal["/openapi.json"] = "/openapi.json"
    models: Literal["/v1/models"] = "/v1/models"
    health: Literal["/health"] = "/health"
    playground: Literal["/"] | None = Field(
        description="Page for browsers; null with PLAYGROUND=false."
    )


class HealthResponse(BaseModel):
    """State of the service."""

    status: Literal["healthy", "loading", "stopping", "unhealthy"]
    model_loaded: bool = Field(description="The model is in memory.")
    version: str = Field(description="The service's version.", examples=["0.1.0"])
