"""Shares a step's tokens among the sequences that run. No torch."""

from src.engine.scheduling.sequence import Sequence


class TokenBudget:
    """Tokens that each step may compute, shared by sequences that decode and that prefill.

    Args:
        max_num_batched_tokens: in a step.
    """

    def __init__(self, max_num_batched_tokens: int) -> None:
        self._max_num_batched_tokens = max_num_batched_tokens
        self._favours_short = False  # whether the last step left a long prompt out
        self._streams_waited = False  # whether the last step that did so left decodes out too

    def share(self, sequences: list[Sequence]) -> dict[Sequence, int]:
        """Returns each sequence's tokens in a step: decodes first, half of the rest for the oldest.

        The other half goes to those that lack least. So a short prompt has its first token soon
        though a long one is being computed, and however many short ones come the long one goes on.
        Every other step may leave the long one out, which makes it a short step for who comes new,
        and every other one of these the decodes, which makes it as short as if nobody else were
        there.
        """
        shares = {one: 1 for one in sequences if not one.is_prefilling}
        budget = self._max_num_batched_tokens - len(shares)
        prefills = [one for one in sequences if one.is_prefilling]
        self._streams_waited = bool(prefills) and self._streams_waited
        short = sorted(prefills, key=lambda one: one.num_missing)
        self._favours_short = bool(
            not self._favours_short
            and prefills
            and short[0].num_missing <= budget < prefills[0].num_missing
        )
        if self._favours_short:
            short = [one for one in short if one.num_missing <= budget]
            self._streams_waited = not self._streams_waited
            if self._streams_waited:
                shares = {}
        elif budget and prefills:
            shares[prefills[0]] = min(prefills[0].num_missing, -(-budget // 2))
            budget -= shares[prefills[0]]
        for one in short:
            more = min(one.num_missing - shares.get(one, 0), budget)
            if more:
                shares[one] = shares.get(one, 0) + more
                budget -= more
        return shares
