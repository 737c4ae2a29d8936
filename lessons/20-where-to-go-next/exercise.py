"""Exercise 20: variants of an experiment."""

from collections.abc import Mapping


def variant(user: str, experiment: str, shares: Mapping[str, float]) -> str:
    """Returns the variant of a user in an experiment.

    - The same user in the same experiment always gets the same one, in every process: Python's own
      `hash` of a text is different in each, so take one of `hashlib`.
    - Users are spread by the shares. A share of 0 gets no user.
    - A user's variant in one experiment says nothing about that in another.
    - If the share of the first variant grows, its earlier users keep it.

    Args:
        user: id of the user.
        experiment: name of the experiment.
        shares: names of variants to their shares, which add up to 1. Their order matters.
    """
    raise NotImplementedError
