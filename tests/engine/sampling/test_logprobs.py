"""Log-probabilities are those of torch's log_softmax over raw or processed logits."""

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from src.engine.logprobs import MIN_LOGPROB
from src.engine.sampling.logprobs import ROWS_AT_ONCE, LogprobsReport, find_logprobs, process_logits
from src.engine.sampling_params import SamplingParams

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


def test_logits_are_returned_as_they_are():
    logits = create_logits(2)
    found = find_logprobs(logits, [5, 6], [2, 2], "raw_logits")
    assert [one.chosen.logprob for one in found] == [logits[0, 5].item(), logits[1, 6].item()]
    assert [one.top[0].logprob for one in found] == logits.amax(dim=-1).tolist()


@pytest.mark.parametrize("mode", ["processed_logprobs", "processed_logits"])
def test_impossible_tokens_have_a_value_that_json_has(mode):
    logits = torch.tensor([[1.0, -torch.inf, -torch.inf]])
    [position] = find_logprobs(logits, [1], [3], mode)
    assert position.chosen.logprob == MIN_LOGPROB
    assert [token.logprob for token in position.top][1:] == [MIN_LOGPROB] * 2


def test_a_row_without_possible_tokens_has_no_nan():
    [position] = find_logprobs(torch.full((1, 4), -torch.inf), [1], [2], "processed_logprobs")
    assert position.chosen.logprob == MIN_LOGPROB


FILTERS = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0, "top_k": 3},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 1.3, "top_k": 40, "top_p": 0.7, "min_p": 0.02},
]


def by_huggingface(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Returns (num_rows, vocab_size) after HuggingFace's warpers, in their order."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(params.temperature))])
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    warpers.append(MinPLogitsWarper(params.min_p))
    return warpers(torch.zeros(len(logits), 1, dtype=torch.long), logits.clone())


@pytest.mark.parametrize("fields", FILTERS, ids=str)
def test_processed_logits_are_those_of_huggingfaces_warpers(fields):
    params = SamplingParams(**({"temperature": 1.0, "top_p": 1.0} | fields))
    logits = create_logits(8)
    expected = by_huggingface(logits, params)
    for row, ours in zip(expected, logits, strict=True):
        found = process_logits(ours, params, int(ours.argmax()))
        torch.testing.assert_close(found, row, rtol=1e-5, atol=1e-5)


def test_greedy_tokens_have_neither_temperature_nor_filters():
    logits = create_logits(1)[0]
    params = SamplingParams(temperature=0, top_k=1, top_p=0.5)
    assert torch.equal(process_logits(logits, params, 3), logits)


def test_the_sampled_token_is_possible_however_it_was_rounded():
    logits = create_logits(1)[0]
    token_id = int(logits.argmin())
    found = process_logits(logits, SamplingParams(temperature=1, top_k=1), token_id)
    assert found.isfinite().nonzero().flatten().tolist() == sorted({token_id, int(logits.argmax())})


def test_each_row_of_a_step_has_its_own_mode():
    raw, processed = create_logits(5), create_logits(5) + 1
    modes = ["raw_logprobs", None, "processed_logprobs", "raw_logits", "processed_logits"]
    params = [
        SamplingParams(temperature=0.5, top_p=1)
        if mode is None
        else SamplingParams(temperature=0.5, top_p=1, logprobs=2, logprobs_mode=mode)
        for mode in modes
    ]
    token_ids, logits = [4, 5, 6, 7, 8], raw.clone()
    report = LogprobsReport(logits, params)
    logits.copy_(processed)
    found = report.find(logits, token_ids)
    assert torch.equal(logits, processed)
    scaled = processed / 0.5
    assert {index: one.chosen.logprob for index, one in found.items()} == pytest.approx(
        {
            0: raw.log_softmax(dim=-1)[0, 4].item(),
            2: scaled.log_softmax(dim=-1)[2, 6].item(),
            3: raw[3, 7].item(),
            4: scaled[4, 8].item(),
        }
    )


def test_filtered_tokens_follow_in_the_order_before_the_filters():
    logits = create_logits(1)
    params = SamplingParams(
        temperature=0.7, top_k=2, logprobs=5, logprobs_mode="processed_logprobs"
    )
    best = logits[0].topk(5).indices.tolist()
    [position] = LogprobsReport(logits, [params]).find(logits, best[:1]).values()
    assert [token.token_id for token in position.top] == best
    assert [token.logprob == MIN_LOGPROB for token in position.top] == [False] * 2 + [True] * 3
