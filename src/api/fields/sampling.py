"""Conversion of request fields to `SamplingParams`, for all APIs."""

from typing import Any

from src.engine.sampling_params import SamplingParams
from src.engine.structured_output.source import GrammarSource
from src.errors import InvalidRequestError

# Fields with the same name in all APIs; null is the default, as in a request without the field.
SHARED = (
    "temperature",
    "top_p",
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
    "logprobs_mode",
)


def sampling_params(
    body: object,
    *,
    max_tokens: int,
    min_tokens: int | None,
    defaults: dict[str, float],
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
    grammar: GrammarSource | None = None,
    names: tuple[str, str] = ("min_tokens", "max_tokens"),
) -> SamplingParams:
    """Returns the sampling parameters of a request.

    Args:
        body: wire model with the fields of SHARED that its API has. A missing or null field takes
            the value in `defaults`, then that of `SamplingParams`.
        max_tokens: maximum number of new tokens. This and the following arguments are fields that
            the APIs name or default differently.
        min_tokens: minimum number of new tokens; None is 0.
        defaults: values of parameters that the request leaves out, by `SamplingDefaults`.
        logprobs: alternatives of each new token; None wants no log-probabilities.
        prompt_logprobs: likewise of each prompt token.
        grammar: required format of the answer; None for any text.
        names: the API's names of min_tokens and max_tokens, for errors.

    Raises:
        InvalidRequestError: min_tokens is above max_tokens, or fields contradict each other.
    """
    min_tokens = min_tokens or 0
    check_min_tokens(min_tokens, max_tokens, names)
    if logprobs is None and getattr(body, "logprobs_mode", None) is not None:
        raise InvalidRequestError("logprobs_mode needs logprobs.", ("logprobs_mode",))
    if grammar is not None:
        _check_goes_with_grammar(body)
    shared: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in SHARED
        if (value := getattr(body, name, None)) is not None
    }
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        grammar=grammar,
        **(defaults | shared),
    )


def check_min_tokens(min_tokens: int, max_tokens: int, names: tuple[str, str]) -> None:
    """Raises InvalidRequestError if `min_tokens` is above `max_tokens`; arguments as above."""
    min_name, max_name = names
    if min_tokens > max_tokens:
        raise InvalidRequestError(
            f"At least {min_tokens} new tokens are asked for, and {max_name} allows {max_tokens}:"
            f" lower {min_name}, or raise {max_name}.",
            (min_name,),
        )


def _check_goes_with_grammar(body: object) -> None:
    """Refuses fields that would end an answer before its grammar is complete, or never."""
    for name in ("stop", "ignore_eos"):
        if getattr(body, name, None):
            raise InvalidRequestError(
                f"{name} cannot be combined with tools or structured output, whose grammar ends the"
                " answer: leave it out.",
                (name,),
            )
