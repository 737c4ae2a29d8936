"""An answer to exercise 7."""


def accept(draft: list[int], chosen: list[int]) -> list[int]:
    """Returns the tokens that a step with a draft gives."""
    num_right = 0
    while num_right < len(draft) and draft[num_right] == chosen[num_right]:
        num_right += 1
    return chosen[: num_right + 1]
