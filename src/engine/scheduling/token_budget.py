"""Shares a step's tokens among running sequences. No torch.

A decode needs one token a step, a prefill as many as it lacks. Each step takes a turn (`Turn`), so
that long prompts, short prompts and decodes all go on, and a short prompt has its first token soon.
"""

from enum import Enum

from src.engine.scheduling.sequence import Sequence


class Turn(Enum):
    """Turns of steps while a prompt is too long for one step, in a cycle.

    | turn               | decodes | oldest prefill     | other prefills, shortest first |
    |--------------------|---------|--------------------|--------------------------------|
    | SHORT_ALONE        | wait    | waits              | those that fit the step        |
    | ALL                | 1 token | half of the budget | the rest of the budget         |
    | SHORT_WITH_DECODES | 1 token | waits              | those that fit the step        |
    | ALL_AGAIN          | 1 token | half of the budget | the rest of the budget         |

    SHORT_ALONE is as fast for a new short prompt as an idle engine. ALL guarantees progress to the
    long prompt, however many short ones come.
    """

    SHORT_ALONE = 0
    ALL = 1
    SHORT_WITH_DECODES = 2
    ALL_AGAIN = 3

    @property
    def is_short(self) -> bool:
        return self in {Turn.SHORT_ALONE, Turn.SHORT_WITH_DECODES}

    @property
    def next(self) -> "Turn":
        return Turn((self.value + 1) % len(Turn))


class TokenBudget:
    """Divides each step's tokens.

    Args:
        max_num_batched_tokens: upper limit of tokens in a step.
    """

    def __init__(self, max_num_batched_tokens: int) -> None:
        self._max_num_batched_tokens = max_num_batched_tokens
        self._turn = Turn.SHORT_ALONE  # of the next step

    def share(self, sequences: list[Sequence]) -> dict[Sequence, int]:
        """Returns each sequence's number of tokens in a step; sequences without any are left out.

        Args:
            sequences: all that may be computed, the oldest first.
        """
        decodes = [one for one in sequences if not one.is_prefilling]
        prefills = [one for one in sequences if one.is_prefilling]
        budget = self._max_num_batched_tokens - len(decodes)
        turn = self._take_turn(prefills, budget)
        shares = {} if turn is Turn.SHORT_ALONE else dict.fromkeys(decodes, 1)
        if turn.is_short:
            prefills = [one for one in prefills if one.num_missing <= budget]
        elif budget and prefills:
            oldest = prefills[0]
            shares[oldest] = min(oldest.num_missing, -(-budget // 2))
            budget -= shares[oldest]
        _fill(shares, prefills, budget)
        return shares

    def _take_turn(self, prefills: list[Sequence], budget: int) -> Turn:
        """Returns this step's turn and moves to the next one.

        A short turn comes only where the oldest prefill does not fit the step and another one does.
        Until then the cycle waits, and steps are as on turn ALL. Without prefills it starts anew.
        """
        if not prefills:
            self._turn = Turn.SHORT_ALONE
            return Turn.ALL
        shortest = min(one.num_missing for one in prefills)
        if self._turn.is_short and not shortest <= budget < prefills[0].num_missing:
            return Turn.ALL
        turn, self._turn = self._turn, self._turn.next
        return turn


def _fill(shares: dict[Sequence, int], prefills: list[Sequence], budget: int) -> None:
    """Adds the budget to the shares of prefills, the shortest first."""
    for one in sorted(prefills, key=lambda one: one.num_missing):
        num_tokens = min(one.num_missing - shares.get(one, 0), budget)
        if num_tokens:
            shares[one] = shares.get(one, 0) + num_tokens
            budget -= num_tokens
