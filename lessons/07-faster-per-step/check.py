"""Check of exercise 7."""

import random
from typing import Any


def check(answer: dict[str, Any]) -> None:
    """Tries small cases, then whole texts: a draft must change nothing but the number of steps."""
    accept = answer["accept"]
    for draft, chosen, expected in [
        ([], [7], [7]),
        ([7], [7, 8], [7, 8]),
        ([9], [7, 8], [7]),
        ([7, 8, 9], [7, 8, 9, 1], [7, 8, 9, 1]),
        ([7, 0, 9], [7, 8, 9, 1], [7, 8]),
        ([0, 8, 9], [7, 8, 9, 1], [7]),
    ]:
        given = accept(list(draft), list(chosen))
        assert given == expected, f"Draft {draft}, chosen {chosen}: {expected}, not {given}."
    rng = random.Random(7)
    for _ in range(20):
        text, given = [rng.randrange(3) for _ in range(40)], [0]
        text[0] = 0
        while len(given) < len(text):
            rest = text[len(given) :]
            draft = [rng.randrange(3) for _ in rest[1:4]]
            num_right = next((i for i, one in enumerate(draft) if one != rest[i]), len(draft))
            # After a wrong guess the model's choices follow another text: any token will do.
            noise = [rng.randrange(3) for _ in draft[num_right:]]
            given += accept(draft, rest[: num_right + 1] + noise)
        assert given == text, f"With drafts the text is {given}, without them {text}."
