"""Log-probabilities are those of torch's log_softmax over the raw logits."""

import pytest
import torch

from src.engine.sampling.logprobs import ROWS_AT_ONCE, find_logprobs

VOCAB_SIZE = 300


def create_logits(num_rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_rows)
    return torch.randn(num_rows, VOCAB_SIZE, generator=generator) * 4


@pytest.mark.parametrize("num_rows", [1, 5, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 3])
def test_returns_the_chosen_and_the_most_likely_tokens(num_rows):
    logits = create_logits(num_rows)
    token_ids = [(7 * row) % VOCAB_SIZE for row in range(num_rows)]
    logprobs = find_logprobs(logits, token_ids, [3] * num_rows)
    expected = logits.log_softmax(dim=-1)
    assert len(logprobs) == num_rows
    for row, position in enumerate(logprobs):
        assert position.chosen.token_id == token_ids[row]
        assert position.chosen.logprob == pytest.approx(expected[row, token_ids[row]].item())
        values, ids = expected[row].topk(3)
        assert [token.token_id for token in position.top] == ids.tolist()
        assert [token.logprob for token in position.top] == pytest.approx(values.tolist())


def test_each_row_has_its_own_number_of_top_tokens():
    logprobs = find_logprobs(create_logits(3), [1, 2, 3], [0, 20, 1])
    assert [len(position.top) for position in logprobs] == [0, 20, 1]


def test_the_most_likely_token_is_the_first_top_token():
    logits = create_logits(1)
    best = int(logits.argmax())
    [position] = find_logprobs(logits, [best], [2])
    assert position.top[0] == position.chosen


def test_a_vocabulary_may_be_smaller_than_the_number_of_top_tokens():
    [position] = find_logprobs(torch.zeros(1, 4), [1], [20])
    assert [token.logprob for token in position.top] == pytest.approx([-1.3862944] * 4)


def test_does_not_change_the_logits():
    logits = create_logits(2)
    before = logits.clone()
    find_logprobs(logits, [1, 2], [3, 3])
    assert torch.equal(logits, before)


def test_large_logits_do_not_overflow():
    [position] = find_logprobs(torch.tensor([[1e4, 1e4 - 1, -1e4]]), [1], [1])
    assert position.chosen.logprob == pytest.approx(-1.3132617)


def test_returns_nothing_for_no_rows():
    assert find_logprobs(torch.zeros(0, VOCAB_SIZE), [], []) == []
