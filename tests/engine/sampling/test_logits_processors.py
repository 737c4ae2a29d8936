"""Logits processors give what HuggingFace's do, or what OpenAI documents."""

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from src.engine.sampling.logits_processors import (
    add_bias,
    ban,
    change_logits,
    changes_logits,
    keep_allowed,
    penalize_frequency_and_presence,
    penalize_repetition,
)
from src.engine.sampling_params import SamplingParams

VOCAB_SIZE = 50
PROMPT, OUTPUT = [3, 4, 4, 9], [4, 7, 7, 7, 11]
TOKEN_IDS = PROMPT + OUTPUT


def create_logits() -> torch.Tensor:
    return torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(5)) * 3


def by_huggingface(logits: torch.Tensor, *processors) -> torch.Tensor:
    return LogitsProcessorList(processors)(torch.tensor([TOKEN_IDS]), logits[None].clone())[0]


@pytest.mark.parametrize("penalty", [0.5, 1.3, 10.0])
def test_the_repetition_penalty_is_huggingfaces(penalty):
    logits = create_logits()
    assert {bool(logits[token_id] > 0) for token_id in TOKEN_IDS} == {True, False}
    expected = by_huggingface(logits, RepetitionPenaltyLogitsProcessor(penalty))
    penalize_repetition(logits, penalty, TOKEN_IDS)
    torch.testing.assert_close(logits, expected)


def test_the_bias_is_huggingfaces():
    logits = create_logits()
    bias = {0: 2.5, 7: -100.0, 49: 100.0}
    processor = SequenceBiasLogitsProcessor({(token_id,): bias[token_id] for token_id in bias})
    expected = by_huggingface(logits, processor)
    add_bias(logits, bias)
    torch.testing.assert_close(logits, expected)


def test_bans_are_those_of_huggingfaces_min_new_tokens():
    logits = create_logits()
    processor = MinNewTokensLengthLogitsProcessor(len(PROMPT), len(OUTPUT) + 1, eos_token_id=[7, 8])
    expected = by_huggingface(logits, processor)
    ban(logits, frozenset({7, 8}))
    assert torch.equal(logits, expected)


@pytest.mark.parametrize(("frequency", "presence"), [(0.5, 0.0), (0.0, 1.5), (-2.0, 0.7)])
def test_frequency_and_presence_penalties_are_openais(frequency, presence):
    logits = create_logits()
    expected = [
        logit - TOKEN_IDS.count(token_id) * frequency - (token_id in TOKEN_IDS) * presence
        for token_id, logit in enumerate(logits.tolist())
    ]
    penalize_frequency_and_presence(logits, frequency, presence, TOKEN_IDS)
    torch.testing.assert_close(logits, torch.tensor(expected))


def test_frequency_and_presence_count_the_output_alone():
    logits = create_logits()
    expected = logits.clone()
    penalize_frequency_and_presence(expected, 0.5, 0.25, OUTPUT)
    params = SamplingParams(frequency_penalty=0.5, presence_penalty=0.25)
    change_logits(logits, params, TOKEN_IDS, len(PROMPT))
    assert torch.equal(logits, expected)
    only_in_the_prompt = set(PROMPT) - set(OUTPUT)
    assert all(logits[token_id] == create_logits()[token_id] for token_id in only_in_the_prompt)


def test_penalties_have_no_effect_before_the_first_token():
    logits = create_logits()
    params = SamplingParams(frequency_penalty=2, presence_penalty=2)
    change_logits(logits, params, PROMPT, len(PROMPT))
    assert torch.equal(logits, create_logits())


def test_the_bias_comes_before_the_penalties():
    logits = create_logits()
    params = SamplingParams(
        logit_bias={4: 6.0, 9: -8.0},
        repetition_penalty=1.7,
        frequency_penalty=0.4,
        presence_penalty=-0.3,
    )
    expected = by_huggingface(
        logits,
        SequenceBiasLogitsProcessor({(4,): 6.0, (9,): -8.0}),
        RepetitionPenaltyLogitsProcessor(1.7),
    )
    for token_id in set(OUTPUT):
        expected[token_id] -= 0.4 * OUTPUT.count(token_id) - 0.3
    change_logits(logits, params, TOKEN_IDS, len(PROMPT))
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("token_ids", [[VOCAB_SIZE], [VOCAB_SIZE + 5, 2], []])
def test_tokens_outside_the_vocabulary_have_no_effect(token_ids):
    logits = create_logits()
    add_bias(logits, dict.fromkeys(token_ids, 1.0))
    changed = (logits != create_logits()).nonzero().flatten().tolist()
    assert changed == [token_id for token_id in token_ids if token_id < VOCAB_SIZE]
    ban(logits, token_ids)
    assert logits.isinf().nonzero().flatten().tolist() == changed


def test_works_in_place_on_a_row_of_a_batch():
    batch = torch.stack([create_logits()] * 3)
    params = SamplingParams(logit_bias={1: 1.0}, repetition_penalty=1.5, frequency_penalty=1.0)
    change_logits(batch[1], params, TOKEN_IDS, len(PROMPT))
    ban(batch[1], [2])
    assert torch.equal(batch[0], create_logits())
    assert torch.equal(batch[2], create_logits())
    changed = (batch[1] != create_logits()).nonzero().flatten().tolist()
    assert changed == sorted({1, 2, *TOKEN_IDS})


@pytest.mark.parametrize(
    "params",
    [
        {"logit_bias": {1: 1.0}},
        {"repetition_penalty": 1.1},
        {"frequency_penalty": 0.1},
        {"presence_penalty": -0.1},
    ],
)
def test_detects_requests_with_bias_or_penalties(params):
    assert changes_logits(SamplingParams(**params))
    assert not changes_logits(SamplingParams(temperature=2.0, top_k=3, min_p=0.5, logprobs=2))


@pytest.mark.parametrize("vocab_size", [40, 37, 70])
@pytest.mark.parametrize("rows", [[0, 1, 2], [1], [2, 0]])
def test_masks_tokens_without_a_bit_in_the_given_rows_alone(vocab_size, rows):
    logits = torch.randn(3, vocab_size)
    before = logits.clone()
    allowed = torch.zeros(3, vocab_size, dtype=torch.bool)
    for row in rows:
        allowed[row, [row, row + 7, row + 30]] = True
    bits = np.packbits(allowed[rows, :64].numpy(), axis=1, bitorder="little")
    keep_allowed(logits, rows, bits)
    for row in range(3):
        if row in rows:
            assert logits[row].isfinite().tolist() == allowed[row].tolist()
        assert (logits[row] == before[row])[allowed[row] | (row not in rows)].all()
