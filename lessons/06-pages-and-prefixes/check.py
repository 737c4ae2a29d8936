"""Check of exercise 6."""

from typing import Any

from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.blocks import BlockPool
from src.engine.scheduling.kv_cache_manager import KVCacheManager
from src.engine.scheduling.sequence import Sequence

SYSTEM = list(range(100, 110))
CASES: list[tuple[str, list[int], list[list[int]]]] = [
    ("nothing came before", [1, 2, 3, 4, 5], []),
    ("a common beginning", [*SYSTEM, 1, 2, 3], [[*SYSTEM, 4, 5, 6]]),
    ("the same prompt again", SYSTEM, [SYSTEM]),
    ("the same prompt, its last block full", SYSTEM[:8], [SYSTEM[:8]]),
    ("the beginning of an earlier prompt", SYSTEM[:6], [SYSTEM]),
    ("longer than the earlier prompt", [*SYSTEM, *SYSTEM], [SYSTEM]),
    ("another first token", [0, *SYSTEM[1:]], [SYSTEM]),
    ("equal tokens at another place", SYSTEM[4:], [SYSTEM]),
    ("blocks of two earlier prompts", [*SYSTEM[:4], 1, 2, 3, 4, 9], [SYSTEM, [1, 2, 3, 4, 5]]),
    ("the best of two earlier prompts", [*SYSTEM, 1], [SYSTEM[:4], SYSTEM]),
]


def engine_answer(prompt: list[int], earlier: list[list[int]], block_size: int) -> int:
    """Returns the number of cached tokens by the engine's own classes."""
    cache = KVCacheManager(BlockPool(64, block_size))
    for number, token_ids in enumerate([*earlier, prompt]):
        request = Request(str(number), token_ids, SamplingParams())
        sequence = Sequence(request, token_ids=list(token_ids))
        cache.prepare(sequence)
        cache.allocate(sequence)
        num_cached = sequence.num_computed_tokens
        sequence.num_computed_tokens = len(token_ids)
        cache.register(sequence)
        cache.free(sequence)
    return num_cached


def check(answer: dict[str, Any]) -> None:
    """Compares with the engine's block manager."""
    for name, prompt, earlier in CASES:
        expected = engine_answer(prompt, earlier, 4)
        given = answer["num_cached_tokens"](list(prompt), [list(one) for one in earlier], 4)
        assert given == expected, (
            f"{name}: {expected} tokens, not {given}. Prompt {prompt}, earlier {earlier},"
            " blocks of 4."
        )
