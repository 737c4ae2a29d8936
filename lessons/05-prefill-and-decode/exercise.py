"""Exercise 5: a token budget."""


def plan(num_missing: list[int], budget: int) -> list[int]:
    """Returns how many tokens of each running sequence the next step computes.

    A sequence that lacks one token decodes, and gets that token first. What is left of the budget
    goes to the others in the order of the list, each as much as it lacks, until nothing is left.

    Args:
        num_missing: number of tokens that each sequence lacks, at least 1.
        budget: largest number of tokens in a step; at least the number of sequences.
    """
    raise NotImplementedError
