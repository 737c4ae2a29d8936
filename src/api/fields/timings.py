"""Timings of an answer: the field `timings`, and the header Server-Timing.

The field has llama.cpp's names, which its clients show, and `queue_ms` beside them.
"""

from typing import Annotated, Any

from pydantic import BaseModel, Field, StrictBool

from src.core.timings import CallTimings

TimingsField = Annotated[
    StrictBool | None,
    Field(
        description="Extension: add `timings` to the answer, in the last event of a stream: times"
        " in queue, prefill and decoding, tokens per second, cached and drafted tokens."
    ),
]


class Timings(BaseModel):
    """Times and counts of a request, over all of its prompts and sequences."""

    queue_ms: float = Field(description="Time until the first sequence ran.")
    cache_n: int = Field(description="Tokens of the prompts from the prefix cache.")
    prompt_n: int = Field(description="Tokens of the prompts that were computed.")
    prompt_ms: float = Field(description="Prefill: from then until the first new token.")
    prompt_per_second: float | None = Field(
        description="Prefill speed: `prompt_n` per second; null for several prompts."
    )
    predicted_n: int = Field(description="New tokens, end tokens included.")
    predicted_ms: float = Field(description="Decoding: from the first new token to the last.")
    predicted_per_second: float | None = Field(
        description="Decoding speed, new tokens after the first per second; null without any."
    )
    draft_n: int = Field(description="Drafted tokens of speculative decoding.")
    draft_n_accepted: int = Field(description="Those of them that were accepted.")


def create_timings(call: CallTimings) -> Timings:
    """Returns the field of a finished call."""
    return Timings(
        queue_ms=_milliseconds(call.queue_seconds),
        cache_n=call.num_cached_tokens,
        prompt_n=call.num_computed_tokens,
        prompt_ms=_milliseconds(call.prefill_seconds),
        prompt_per_second=_rounded(call.prefill_tokens_per_second),
        predicted_n=call.num_new_tokens,
        predicted_ms=_milliseconds(call.decode_seconds),
        predicted_per_second=_rounded(call.decode_tokens_per_second),
        draft_n=call.num_drafted,
        draft_n_accepted=call.num_accepted,
    )


def timings_fields(wanted: bool | None, call: CallTimings) -> dict[str, Any]:
    """Returns the field of an answer by its name; nothing if the request does not want it."""
    return {"timings": create_timings(call)} if wanted else {}


def server_timing(call: CallTimings) -> dict[str, str]:
    """Returns the header Server-Timing (W3C) by its name, with durations in milliseconds."""
    durations = {
        "queue": call.queue_seconds,
        "prefill": call.prefill_seconds,
        "decode": call.decode_seconds,
    }
    entries = (f"{name};dur={_milliseconds(seconds)}" for name, seconds in durations.items())
    return {"Server-Timing": ", ".join(entries)}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _rounded(speed: float | None) -> float | None:
    return None if speed is None else round(speed, 2)
