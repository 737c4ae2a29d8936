"""Check of exercise 4."""

from typing import Any

CASES = [
    # waiting, running, places, cache tokens, number of admitted requests
    ("nothing waits", [], [], 4, 100, 0),
    ("everything fits", [(5, 5), (10, 10)], [], 4, 100, 2),
    ("the last place is taken", [(5, 5)], [(5, 5)] * 4, 4, 100, 0),
    ("places for two more", [(1, 1)] * 5, [(1, 1)] * 2, 4, 100, 2),
    ("room to the last token", [(10, 40), (20, 30)], [], 4, 100, 2),
    ("a token too many", [(10, 40), (20, 31)], [], 4, 100, 1),
    ("running requests take room", [(10, 40)], [(20, 31)], 4, 100, 0),
    ("a large request is not overtaken", [(90, 20), (1, 1)], [(1, 1)], 4, 100, 0),
    ("a large request in the middle", [(5, 5), (90, 20), (1, 1)], [], 4, 100, 1),
]


def check(answer: dict[str, Any]) -> None:
    """Tries cases in which places or room are short."""
    create, admit = answer["Request"], answer["admit"]
    for name, waiting, running, max_num_seqs, max_cache_tokens, expected in CASES:
        queue = [create(*sizes) for sizes in waiting]
        admitted = admit(
            list(queue), [create(*sizes) for sizes in running], max_num_seqs, max_cache_tokens
        )
        assert len(admitted) == expected, (
            f"{name}: {expected} may run, not {len(admitted)}. Waiting: {waiting}, running:"
            f" {running}, {max_num_seqs} places, room for {max_cache_tokens} tokens."
        )
        assert admitted == queue[:expected], f"{name}: they are not the first of the queue."
