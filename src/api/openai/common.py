"""What answers of this API have in common: their head, and how many tokens they took."""

import time
import uuid
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from src.core.outputs import Generation, TextDelta
from src.engine.logprobs import TokenLogprob
from src.errors import ModelNotFoundError
from src.inference import InferenceEngine

MAX_SHOWN = 80


class PromptTokensDetails(BaseModel):
    """What was special about the prompt's tokens."""

    cached_tokens: int = Field(description="Of them, that did not have to be computed again.")
    audio_tokens: Literal[0] = Field(description="Prompts are text alone.")


class CompletionTokensDetails(BaseModel):
    """What was special about new tokens: nothing ever is, and clients add these numbers up."""

    reasoning_tokens: Literal[0] = Field(description="No reasoning is kept apart.")
    audio_tokens: Literal[0] = Field(description="Answers are text alone.")
    accepted_prediction_tokens: Literal[0] = Field(description="There are no predictions.")
    rejected_prediction_tokens: Literal[0] = Field(description="Likewise.")


class Usage(BaseModel):
    """How many tokens a request took, over all of its prompts and sequences."""

    prompt_tokens: int
    completion_tokens: int = Field(description="End tokens included.")
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


@dataclass(slots=True)
class UsageCount:
    """Adds up a request's usage.

    Args:
        num_prompt_tokens: of all prompts.
        num_sequences: of each prompt; the first one's cached tokens are the prompt's.
        drops_new: new tokens are none of the answer.
    """

    num_prompt_tokens: int
    num_sequences: int
    drops_new: bool = False
    num_cached_tokens: int = 0
    num_new_tokens: int = 0

    def add(self, delta: TextDelta) -> None:
        """Counts what is new in a stream."""
        self.num_new_tokens += delta.num_tokens
        if delta.index % self.num_sequences == 0:
            self.num_cached_tokens += delta.num_cached_tokens

    def add_all(self, generation: Generation) -> None:
        """Counts what a prompt gave."""
        self.num_new_tokens += sum(one.num_tokens for one in generation.completions)
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
                reasoning_tokens=0,
                audio_tokens=0,
                accepted_prediction_tokens=0,
                rejected_prediction_tokens=0,
            ),
        )


def answer_head(prefix: str, kind: str, engine: InferenceEngine) -> dict[str, Any]:
    """The fields with which each answer, and each chunk of one, begins."""
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": engine.model_name,
        "system_fingerprint": f"fp_{engine.fingerprint}",
    }


def token_logprob(engine: InferenceEngine, one: TokenLogprob) -> dict[str, Any]:
    """A token as chats and responses tell it: written, with its bytes and its log-probability."""
    token = engine.token(one.token_id)
    text = token.text
    if text is None:
        text = "".join(f"\\x{byte:02x}" for byte in token.data)
    return {"token": text, "logprob": one.logprob, "bytes": list(token.data)}


def check_model(name: str | None, engine: InferenceEngine) -> None:
    """Refuses another model than the one that is served.

    Raises:
        ModelNotFoundError: there is no such model here.
    """
    if name is not None and name != engine.model_name:
        raise ModelNotFoundError(
            f"The model `{shown(name)}` does not exist here; the served model is"
            f" `{engine.model_name}`.",
            ("model",),
        )


def shown(name: str) -> str:
    """A name that a caller sent, for a message: at most MAX_SHOWN characters, and printable."""
    escaped = repr(name[: MAX_SHOWN + 1])[1:-1]
    return escaped if len(escaped) <= MAX_SHOWN else escaped[:MAX_SHOWN] + "…"
