"""Requests and answers of `/v1/completions`, as they are on the wire."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
)
from pydantic_core import PydanticCustomError

from src.api.openai.answers import Usage
from src.api.openai.fields import MAX_SEQUENCES, MAX_TOKENS, GenerationRequest, Refused
from src.engine.sampling_params import MAX_LOGPROBS
from src.errors import InvalidRequestError
from src.tokenization import Prompt

MAX_PROMPTS = 128
DEFAULT_MAX_TOKENS = 16


def _parse_prompts(value: object) -> list[Prompt]:
    """One prompt or several, each a text or token ids, as a list."""
    if isinstance(value, str) or _is_token_ids(value):
        value = [value]
    if not isinstance(value, list) or not 0 < len(value) <= MAX_PROMPTS:
        raise PydanticCustomError(
            "invalid_value",
            "It must be a text, a list of token ids, or a list of 1 to {most} of either kind",
            {"most": MAX_PROMPTS},
        )
    for index, prompt in enumerate(value):
        if not (isinstance(prompt, str) or _is_token_ids(prompt)):
            raise PydanticCustomError(
                "invalid_value",
                "Item {index} is neither a text nor a list of token ids",
                {"index": index},
            )
        if isinstance(prompt, str) and not _is_unicode(prompt):
            raise PydanticCustomError(
                "invalid_value", "Item {index} holds half of a character", {"index": index}
            )
    return value


def _is_token_ids(value: object) -> bool:
    """Whether it is a list of whole numbers, at least one; True is none."""
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


Prompts = Annotated[
    list[Any],
    PlainValidator(
        _parse_prompts, json_schema_input_type=str | list[int] | list[str] | list[list[int]]
    ),
]


class CompletionRequest(GenerationRequest):
    """Texts or token ids to continue."""

    prompt: Prompts = Field(
        description=f"What to continue: a text, token ids, or up to {MAX_PROMPTS} of either."
    )
    max_tokens: StrictInt | None = Field(
        default=None,
        ge=0,
        le=MAX_TOKENS,
        description=f"New tokens at most; 0 needs `echo`. Default: {DEFAULT_MAX_TOKENS}.",
    )
    logprobs: StrictInt | None = Field(
        default=None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Tell each token's log-probability, and those of so many most likely ones.",
    )
    echo: StrictBool | None = Field(
        default=None, description="Begin with the prompt; `logprobs` tells of its tokens too."
    )
    best_of: StrictInt | None = Field(
        default=None,
        ge=1,
        le=MAX_SEQUENCES,
        description="Generate so many and answer the `n` likeliest by token; not in a stream.",
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
        """For each prompt, answered or not."""
        return self.best_of or self.num_choices

    def check(self) -> None:
        """Raises InvalidRequestError if fields do not go together."""
        super().check()
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequestError(
                "max_tokens may be 0 with echo: true alone; ask for at least 1.", ("max_tokens",)
            )
        if self.best_of is None:
            return
        if self.best_of < self.num_choices:
            raise InvalidRequestError(
                f"best_of must be at least n, {self.num_choices}.", ("best_of",)
            )
        if self.stream and self.best_of > self.num_choices:
            raise InvalidRequestError(
                "Which are best is known at the end alone: leave out best_of, or stream.",
                ("best_of",),
            )


class Logprobs(BaseModel):
    """What the model thought of the tokens; all lists have one item for each."""

    tokens: list[str] = Field(description="`bytes:…` where they are no whole characters.")
    token_logprobs: list[float | None] = Field(description="null for a prompt's first token.")
    top_logprobs: list[dict[str, float] | None] = Field(
        description="The most likely tokens, and the one that stands there."
    )
    text_offset: list[int] = Field(description="Where in the text each begins, in characters.")


class CompletionChoice(BaseModel):
    """One continuation, or what is new in it."""

    index: int = Field(description="The i-th of the p-th prompt has p * n + i.")
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None = Field(
        description="`stop`: an end token or a stop text came. `length`: max_tokens. null: not yet."
    )


class Completion(BaseModel):
    """The answer, or a chunk of it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
