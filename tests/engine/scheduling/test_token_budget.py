"""Shares of a step's tokens, over sequences alone; test_scheduler.py has the steps they make."""

from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.sequence import Sequence
from src.engine.scheduling.token_budget import TokenBudget, Turn


def create_sequence(num_missing: int) -> Sequence:
    token_ids = [1] * num_missing
    return Sequence(Request("any", token_ids, SamplingParams()), token_ids=token_ids)


def share(budget: TokenBudget, *sequences: Sequence) -> list[int | None]:
    shares = budget.share(list(sequences))
    return [shares.get(one) for one in sequences]


def test_turns_are_a_cycle():
    turn, seen = Turn.SHORT_ALONE, []
    for _ in Turn:
        seen.append(turn)
        turn = turn.next
    assert seen == list(Turn)
    assert turn is Turn.SHORT_ALONE


def test_turns_of_a_long_prompt_a_short_one_and_a_decode():
    budget = TokenBudget(17)
    sequences = create_sequence(90), create_sequence(5), create_sequence(1)
    cycle = [[None, 5, None], [11, 5, 1], [None, 5, 1], [11, 5, 1]]
    assert [share(budget, *sequences) for _ in range(8)] == cycle * 2


def test_a_short_turn_waits_until_a_short_prompt_comes():
    budget = TokenBudget(17)
    long, decode = create_sequence(90), create_sequence(1)
    assert [share(budget, long, decode) for _ in range(3)] == [[16, 1]] * 3
    assert share(budget, long, create_sequence(5), decode) == [None, 5, None]


def test_the_cycle_starts_anew_without_prefills():
    budget = TokenBudget(17)
    sequences = create_sequence(90), create_sequence(5), create_sequence(1)
    for _ in range(2):
        assert share(budget, *sequences) == [None, 5, None]
        assert share(budget, sequences[-1]) == [1]


def test_prompts_too_long_for_a_step_wait_in_a_short_turn():
    budget = TokenBudget(16)
    sequences = [create_sequence(size) for size in (90, 20, 5, 14)]
    assert share(budget, *sequences) == [None, None, 5, 11]
    assert share(budget, *sequences) == [8, None, 5, 3]


def test_a_budget_of_decodes_alone_leaves_prefills_out():
    assert share(TokenBudget(2), create_sequence(1), create_sequence(9), create_sequence(1)) == [
        1,
        None,
        1,
    ]
