"""Parts that several answers of OpenAI's API share: head, usage, log-probabilities."""

import time
import uuid
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from src.core.outputs import Generation, TextDelta
from src.engine.logprobs import TokenLogprob
from src.inference import InferenceEngine


class WrittenLogprob(BaseModel):
    """A token and the natural logarithm of its probability."""

    token: str = Field(description="Text; bytes of an incomplete character are escaped as \\xe2.")
    logprob: float
    bytes: list[int] = Field(description="UTF-8 bytes of the token.")


class PromptTokensDetails(BaseModel):
    """Breakdown of the prompt's tokens."""

    cached_tokens: int = Field(description="Tokens that came from the prompt cache.")
    audio_tokens: Literal[0] = Field(description="Prompts are text alone.")


class CompletionTokensDetails(BaseModel):
    """Breakdown of the new tokens; what is always 0 is for clients that add the numbers up."""

    reasoning_tokens: int = Field(description="Tokens of thoughts and of their tags.")
    audio_tokens: Literal[0] = Field(description="Answers are text alone.")
    accepted_prediction_tokens: Literal[0] = Field(description="There are no predictions.")
    rejected_prediction_tokens: Literal[0] = Field(description="There are no predictions.")


class Usage(BaseModel):
    """Number of tokens of a request, over all of its prompts and sequences."""

    prompt_tokens: int
    completion_tokens: int = Field(description="End tokens included.")
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


@dataclass(slots=True)
class UsageCount:
    """Counter of a request's tokens.

    Args:
        num_prompt_tokens: tokens of all prompts.
        num_sequences: sequences of each prompt; cached tokens are counted for the first one.
        drops_new: the answer does not contain the new tokens.
    """

    num_prompt_tokens: int
    num_sequences: int
    drops_new: bool = False
    num_cached_tokens: int = 0
    num_new_tokens: int = 0
    num_reasoning_tokens: int = 0

    def add(self, delta: TextDelta) -> None:
        """Counts the tokens of a delta."""
        self.num_new_tokens += delta.num_tokens
        self.num_reasoning_tokens += delta.num_reasoning_tokens
        if delta.index % self.num_sequences == 0:
            self.num_cached_tokens += delta.num_cached_tokens

    def add_all(self, generation: Generation) -> None:
        """Counts the tokens of all sequences of a prompt."""
        self.num_new_tokens += sum(item.num_tokens for item in generation.completions)
        self.num_reasoning_tokens += sum(
            item.num_reasoning_tokens for item in generation.completions
        )
        self.num_cached_tokens += generation.num_cached_tokens

    def usage(self) -> Usage:
        num_new_tokens = 0 if self.drops_new else self.num_new_tokens
        return Usage(
            prompt_tokens=self.num_prompt_tokens,
            completion_tokens=num_new_tokens,
            total_tokens=self.num_prompt_tokens + num_new_tokens,
            prompt_tokens_details=PromptTokensDetails(
                cached_tokens=self.num_cached_tokens, audio_tokens=0
            ),
            completion_tokens_details=CompletionTokensDetails(
                reasoning_tokens=self.num_reasoning_tokens,
                audio_tokens=0,
                accepted_prediction_tokens=0,
                rejected_prediction_tokens=0,
            ),
        )


def answer_head(prefix: str, kind: str, engine: InferenceEngine) -> dict[str, Any]:
    """Returns the first fields of an answer or a chunk."""
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": engine.model_name,
        "system_fingerprint": f"fp_{engine.fingerprint}",
    }


def token_logprob(engine: InferenceEngine, logprob: TokenLogprob) -> dict[str, Any]:
    """Returns the fields of a `WrittenLogprob`."""
    token = engine.codec.token_bytes.get(logprob.token_id)
    text = token.text
    if text is None:
        text = "".join(f"\\x{byte:02x}" for byte in token.data)
    return {"token": text, "logprob": logprob.logprob, "bytes": list(token.data)}
