"""The one place where a request's fields become `SamplingParams`."""

from typing import Any

from src.engine.sampling_params import SamplingParams
from src.engine.structured_output.source import GrammarSource
from src.errors import InvalidRequestError

# Fields that generation requests share, under these names; null is what is left out.
SHARED = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
)


def sampling_params(
    body: object,
    *,
    max_tokens: int,
    min_tokens: int | None,
    temperature: float,
    top_p: float,
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
    grammar: GrammarSource | None = None,
    names: tuple[str, str] = ("min_tokens", "max_tokens"),
) -> SamplingParams:
    """Returns what a request says.

    Args:
        body: has the shared fields, or those of them that its API knows; what it leaves out is
            SamplingParams' own default.
        max_tokens: and those below: what the APIs name or fill in each in their own way.
        names: what the API calls min_tokens and max_tokens.

    Raises:
        InvalidRequestError: more new tokens are asked for than allowed, or fields do not go
            together.
    """
    least, most = names
    min_tokens = min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidRequestError(
            f"At least {min_tokens} new tokens are asked for, and {most} allows {max_tokens}: lower"
            f" {least}, or raise {most}.",
            (least,),
        )
    if grammar is not None:
        _check_goes_with_grammar(body)
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in SHARED
        if (value := getattr(body, name, None)) is not None
    }
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=temperature,
        top_p=top_p,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        grammar=grammar,
        **given,
    )


def _check_goes_with_grammar(body: object) -> None:
    """Refuses what would end an answer before it has its shape, or never."""
    for name in ("stop", "ignore_eos"):
        if getattr(body, name, None):
            raise InvalidRequestError(
                f"{name} goes neither with tools nor with structured output, whose shape says where"
                " the answer ends: leave it out.",
                (name,),
            )
