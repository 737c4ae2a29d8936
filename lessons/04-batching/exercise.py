"""Exercise 4: admission with a limit on memory."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """A request; it needs room in the KV cache for prompt and answer."""

    num_prompt_tokens: int
    max_tokens: int


def admit(
    waiting: list[Request], running: list[Request], max_num_seqs: int, max_cache_tokens: int
) -> list[Request]:
    """Returns the waiting requests that may run now, in order of arrival.

    Each request, running or admitted, needs room for its prompt and `max_tokens` more tokens. No
    request overtakes another: if one does not fit, those behind it wait too, so that a large
    request is served some day.

    Args:
        waiting: the first came first; do not change the list.
        running: requests that have a place.
        max_num_seqs: number of places.
        max_cache_tokens: number of tokens for which the cache has room.
    """
    raise NotImplementedError
