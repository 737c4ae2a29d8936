"""An answer to exercise 4."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """A request; it needs room in the KV cache for prompt and answer."""

    num_prompt_tokens: int
    max_tokens: int

    @property
    def size(self) -> int:
        return self.num_prompt_tokens + self.max_tokens


def admit(
    waiting: list[Request], running: list[Request], max_num_seqs: int, max_cache_tokens: int
) -> list[Request]:
    """Returns the waiting requests that may run now, in order of arrival."""
    admitted: list[Request] = []
    num_places = max_num_seqs - len(running)
    num_tokens = max_cache_tokens - sum(request.size for request in running)
    for request in waiting[:num_places]:
        if request.size > num_tokens:
            break
        num_tokens -= request.size
        admitted.append(request)
    return admitted
