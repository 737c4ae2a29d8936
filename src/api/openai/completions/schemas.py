"""Wire models of requests and answers of `/v1/completions`."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from src.api.fields.bounds import Count, NumLogprobs
from src.api.fields.shared import Refused
from src.api.fields.timings import Timings
from src.api.openai.common import Usage
from src.api.openai.fields import MAX_SEQUENCES, GenerationRequest
from src.api.openai.prompts import prompts_up_to
from src.errors import InvalidRequestError

MAX_PROMPTS = 128
DEFAULT_MAX_TOKENS = 16


class CompletionRequest(GenerationRequest):
    """Texts or token ids to continue."""

    prompt: Annotated[list[Any], prompts_up_to(MAX_PROMPTS)] = Field(
        description=f"A text, token ids, or a list of up to {MAX_PROMPTS} of either."
    )
    max_tokens: Count | None = Field(
        default=None,
        description=f"Maximum of new tokens; 0 needs `echo`. Default: {DEFAULT_MAX_TOKENS}.",
    )
    logprobs: NumLogprobs | None = Field(
        default=None,
        description="Return the log-probabilities of each token and of this many most likely ones.",
    )
    echo: StrictBool | None = Field(
        default=None, description="Begin with the prompt; `logprobs` then covers it too."
    )
    best_of: StrictInt | None = Field(
        default=None,
        ge=1,
        le=MAX_SEQUENCES,
        description="Generate this many and return the `n` with the highest mean log-probability of"
        " their tokens; not in a stream.",
    )
    suffix: Annotated[None, Refused("the served models only continue texts")] = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "storyteller",
                    "prompt": "The capital of France is",
                    "max_tokens": 10,
                    "temperature": 0,
                }
            ]
        }
    )

    @property
    def num_sequences(self) -> int:
        """Number of generated sequences for each prompt."""
        return self.best_of or self.num_choices

    def check(self) -> None:
        """Raises InvalidRequestError if fields contradict each other."""
        super().check()
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequestError(
                "max_tokens: 0 needs echo: true; ask for at least 1.", ("max_tokens",)
            )
        if self.best_of is None:
            return
        if self.best_of < self.num_choices:
            raise InvalidRequestError(
                f"best_of must be at least n, {self.num_choices}.", ("best_of",)
            )
        if self.logprobs_mode not in (None, "raw_logprobs") and self.best_of > self.num_choices:
            raise InvalidRequestError(
                "best_of ranks by raw_logprobs: leave out logprobs_mode, or best_of.",
                ("logprobs_mode",),
            )
        if self.stream and self.best_of > self.num_choices:
            raise InvalidRequestError(
                "A stream cannot return the best of several: leave out best_of, or stream.",
                ("best_of",),
            )


class Logprobs(BaseModel):
    """Log-probabilities of tokens; all lists have one item for each token."""

    tokens: list[str] = Field(description="Text, or `bytes:…` for incomplete characters.")
    token_logprobs: list[float | None] = Field(description="null for the first token of a prompt.")
    top_logprobs: Iterable[dict[str, float] | None] = Field(
        description="The most likely tokens and the actual one."
    )
    text_offset: list[int] = Field(description="Start of each token in the text, in characters.")


class CompletionChoice(BaseModel):
    """One continuation, or the new part of one."""

    index: int = Field(description="p * n + i for the i-th continuation of the p-th prompt.")
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None = Field(
        description="`stop`: an end token or stop text. `length`: max_tokens. null: not finished."
    )


class Completion(BaseModel):
    """A whole answer, or a chunk of one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    timings: Timings | None = Field(default=None, description="Left out unless requested.")
