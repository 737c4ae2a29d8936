"""An answer to exercise 5."""


def plan(num_missing: list[int], budget: int) -> list[int]:
    """Returns how many tokens of each running sequence the next step computes."""
    shares = [1 if missing == 1 else 0 for missing in num_missing]
    num_left = budget - sum(shares)
    for index, missing in enumerate(num_missing):
        if missing > 1:
            shares[index] = min(missing, num_left)
            num_left -= shares[index]
    return shares
