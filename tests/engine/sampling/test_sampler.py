"""Samples follow the exact distribution of each filter and of their combination."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from src.engine.logprobs import SampledToken
from src.engine.sampling.kernels import NUM_CANDIDATES
from src.engine.sampling.sampler import Sampler, SamplingRow
from src.engine.sampling.stripes import NUM_STRIPES
from src.engine.sampling_params import SamplingParams
from tests.support.native import SAMPLING_KERNELS

NUM_DRAWS = 8_000
ROWS_AT_ONCE = 500
SMALL, LARGE = 12, 4 * NUM_CANDIDATES
STRIPED = 2 * NUM_STRIPES * NUM_CANDIDATES + 1000
PROMPT = [1, 5, 5, 8]


SAMPLERS = {name: Sampler(kernels) for name, kernels in SAMPLING_KERNELS.items()}
CHOSEN_SAMPLER: list[Sampler] = []


@pytest.fixture(params=list(SAMPLERS)[:2], autouse=True)
def sampler(request):
    """Sampler of PyTorch or of the best variant; test_top_k_top_p.py compares all variants."""
    CHOSEN_SAMPLER.append(SAMPLERS[request.param])
    yield
    CHOSEN_SAMPLER.pop()


def sample(logits: torch.Tensor, rows: list[SamplingRow]) -> list[SampledToken]:
    return CHOSEN_SAMPLER[-1].sample(logits, rows)


def create_logits(vocab_size: int, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(vocab_size, generator=torch.Generator().manual_seed(3)) * spread


def create_row(seed: int = 1, token_ids: list[int] = PROMPT, banned=(), **params) -> SamplingRow:
    return SamplingRow(SamplingParams(**params), seed, token_ids, len(PROMPT), frozenset(banned))


def sample_ids(logits: torch.Tensor, rows: list[SamplingRow]) -> list[int]:
    """Samples from a copy of the logits."""
    return [token.token_id for token in sample(logits.clone(), rows)]


def draw(logits: torch.Tensor, **params) -> list[int]:
    """Samples NUM_DRAWS tokens of one distribution, each with another seed."""
    row = create_row(**params)
    drawn: list[int] = []
    for first in range(0, NUM_DRAWS, ROWS_AT_ONCE):
        rows = [replace(row, seed=first + index) for index in range(ROWS_AT_ONCE)]
        drawn += sample_ids(logits.expand(ROWS_AT_ONCE, -1), rows)
    return drawn


def exact_probs(logits: torch.Tensor, banned=(), **params) -> torch.Tensor:
    """Returns the distribution by HuggingFace's processors, in their order."""
    params = SamplingParams(**params)
    processors = LogitsProcessorList()
    if params.logit_bias:
        bias = {(token_id,): float(value) for token_id, value in params.logit_bias.items()}
        processors.append(SequenceBiasLogitsProcessor(bias))
    processors.append(RepetitionPenaltyLogitsProcessor(float(params.repetition_penalty)))
    if banned:
        processors.append(SuppressTokensLogitsProcessor(list(banned)))
    processors.append(TemperatureLogitsWarper(float(params.temperature)))
    if params.top_k:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(TopPLogitsWarper(params.top_p))
    processors.append(MinPLogitsWarper(params.min_p))
    scores = processors(torch.tensor([PROMPT]), logits[None].clone())
    return scores[0].double().softmax(dim=-1)


def assert_follows(drawn: list[int], probs: torch.Tensor) -> None:
    """Applies a chi-square test, with tokens too rare for its approximation in one class."""
    counts = Counter(drawn)
    assert all(probs[token_id] > 0 for token_id in counts)
    frequent = (probs * NUM_DRAWS >= 10).nonzero().flatten().tolist()
    expected = [probs[token_id].item() * NUM_DRAWS for token_id in frequent]
    observed = [counts[token_id] for token_id in frequent]
    if NUM_DRAWS - sum(expected) >= 10:
        expected.append(NUM_DRAWS - sum(expected))
        observed.append(NUM_DRAWS - sum(observed))
    scale = sum(observed) / sum(expected)
    if len(expected) > 1:
        assert chi_square_p_value(observed, [value * scale for value in expected]) > 1e-4


def chi_square_p_value(observed: list[int], expected: list[float]) -> float:
    """Returns the p-value of Pearson's test that the counts come from this distribution."""
    seen, hoped = torch.tensor(observed).double(), torch.tensor(expected).double()
    statistic = ((seen - hoped) ** 2 / hoped).sum()
    degrees = torch.tensor(len(observed) - 1).double()
    return float(torch.special.gammaincc(degrees / 2, statistic / 2))


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0.5, "top_p": 1.0},
        {"temperature": 1.8, "top_p": 1.0},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 1.0, "top_p": 0.3},
        {"temperature": 1.8, "top_p": 0.95},
        {"temperature": 1.0, "top_p": 1.0, "top_k": 4},
        {"temperature": 1.0, "top_p": 1.0, "min_p": 0.05},
        {"temperature": 1.5, "top_p": 1.0, "min_p": 0.6},
        {"temperature": 1.3, "top_p": 0.8, "top_k": 6},
        {"temperature": 1.3, "top_p": 0.9, "top_k": 9, "min_p": 0.1},
        {"temperature": 1.5, "top_p": 0.9, "top_k": 2 * NUM_CANDIDATES},
        {"temperature": 2.0, "top_p": 0.95, "min_p": 0.001},
        {"top_p": 0.9, "logit_bias": {2: 3.0, 7: -100}, "repetition_penalty": 1.4},
        {"temperature": 1.0, "min_p": 0.1, "repetition_penalty": 0.7, "banned": (0, 4)},
    ],
    ids=str,
)
@pytest.mark.parametrize("vocab_size", [SMALL, LARGE])
def test_samples_follow_the_exact_distribution(vocab_size, params):
    logits = create_logits(vocab_size)
    assert_follows(draw(logits, **params), exact_probs(logits, **params))


@pytest.mark.parametrize("params", [{"top_p": 1.0}, {"top_p": 0.9}, {"top_p": 1.0, "min_p": 0.02}])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_samples_follow_the_exact_distribution_of_a_large_vocabulary(spread, params):
    logits = create_logits(STRIPED, spread)
    params = {"temperature": 1.0} | params
    assert_follows(draw(logits, **params), exact_probs(logits, **params))


def test_samples_from_all_tokens_of_a_flat_distribution():
    drawn = draw(torch.zeros(LARGE), temperature=1.0, top_p=0.9)
    assert len(set(drawn)) > 3 * NUM_CANDIDATES


def test_greedy_rows_take_the_most_likely_token():
    logits = create_logits(LARGE).expand(3, -1)
    greedy = create_row(temperature=0)
    wild = create_row(temperature=2.0, top_p=1.0)
    best = logits[0].argmax().item()
    assert sample_ids(logits, [greedy] * 3) == [best] * 3
    mixed = sample_ids(logits, [greedy, wild, greedy])
    assert (mixed[0], mixed[2]) == (best, best)


PARAMS = [
    {"temperature": 0.9, "top_p": 0.8},
    {"temperature": 1.5, "top_p": 1.0, "top_k": 50},
    {"temperature": 2.0, "top_p": 1.0},
    {"temperature": 2.0, "top_p": 0.95},  # by rejection
    {"temperature": 2.0, "top_p": 0.02},  # sometimes after a sort
    {"temperature": 1.9, "top_p": 0.9, "top_k": 3 * NUM_CANDIDATES},  # after a sort
    {"temperature": 1.0, "min_p": 0.2, "top_p": 1.0},
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 2.0, "logprobs": 2},
    {"temperature": 1.0, "presence_penalty": 1.0, "frequency_penalty": 1.0},
    {"temperature": 1.0, "logit_bias": {3: 5.0}, "banned": (1, 2)},
]


@pytest.mark.parametrize("vocab_size", [LARGE, STRIPED])
@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_a_token_depends_on_its_own_row_alone(vocab_size, spread):
    generator = torch.Generator().manual_seed(4)
    num_rows = 4 * len(PARAMS)
    logits = torch.randn(num_rows, vocab_size, generator=generator) * spread
    rows = [
        create_row(seed, PROMPT + [7] * seed, **PARAMS[seed % len(PARAMS)])
        for seed in range(num_rows)
    ]
    together = sample(logits.clone(), rows)
    alone = [sample(logits[i : i + 1].clone(), rows[i : i + 1])[0] for i in range(num_rows)]
    assert together == alone
    order = torch.randperm(num_rows, generator=generator).tolist()
    shuffled = sample(logits[order], [rows[index] for index in order])
    assert shuffled == [together[index] for index in order]


def test_samples_depend_on_seed_and_position():
    logits = create_logits(LARGE).expand(200, -1)

    def rows(seed: int) -> list[SamplingRow]:
        tokens = [PROMPT + [1] * length for length in range(200)]
        return [create_row(seed, token_ids, temperature=1.5, top_p=1.0) for token_ids in tokens]

    first = sample_ids(logits, rows(1))
    assert first == sample_ids(logits, rows(1))
    assert first != sample_ids(logits, rows(2))
    assert len(set(first)) > 10


@pytest.mark.parametrize("temperature", [0, 1.0, 2.0])
def test_a_bias_of_100_forces_a_token_and_of_minus_100_bans_it(temperature):
    logits = create_logits(LARGE).expand(20, -1)
    best, unlikely = int(logits[0].argmax()), int(logits[0].argmin())
    forced = create_row(temperature=temperature, top_p=1.0, logit_bias={unlikely: 100})
    assert sample_ids(logits, [forced] * 20) == [unlikely] * 20
    rows = [
        create_row(seed, temperature=temperature, top_p=1.0, logit_bias={best: -100})
        for seed in range(20)
    ]
    assert best not in sample_ids(logits, rows)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_never_selects_a_banned_token(temperature):
    logits = create_logits(SMALL).expand(500, -1)
    banned = logits[0].topk(3).indices.tolist()
    params = {"temperature": temperature, "top_p": 1.0, "logit_bias": {banned[0]: 100}}
    rows = [create_row(seed, banned=banned, **params) for seed in range(500)]
    assert not set(banned) & set(sample_ids(logits, rows))


@pytest.mark.parametrize(
    "params", [{"temperature": 0}, {"top_p": 1.0}, {"top_p": 0.5}, {"top_k": 3, "min_p": 0.5}]
)
@pytest.mark.parametrize("vocab_size", [SMALL, LARGE])
def test_a_row_without_a_possible_token_gets_a_valid_id(vocab_size, params):
    logits = create_logits(vocab_size).repeat(3, 1)
    other, impossible = create_row(**params), create_row(banned=range(vocab_size), **params)
    logits[2] = -torch.inf
    token_ids = sample_ids(logits, [other, impossible, other])
    assert token_ids[0] == sample_ids(logits[:1], [other])[0]
    assert all(0 <= token_id < vocab_size for token_id in token_ids)


def test_all_tokens_but_one_may_be_banned():
    logits = create_logits(LARGE)[None]
    for params in PARAMS:
        row = create_row(**params | {"banned": set(range(LARGE)) - {17}})
        assert sample_ids(logits, [row]) == [17]


def test_penalties_make_greedy_decoding_leave_a_loop():
    logits = torch.tensor([[1.0, 2.0, 2.5, 0.0]])
    assert sample_ids(logits, [create_row(temperature=0)]) == [2]
    for params in (
        {"repetition_penalty": 1.5},
        {"presence_penalty": 1.0},
        {"frequency_penalty": 0.3},
    ):
        row = create_row(token_ids=[0, 0, 0, 0, 2, 2], temperature=0, **params)
        assert sample_ids(logits, [row]) == [1]


def test_log_probabilities_are_of_the_raw_logits():
    logits = create_logits(LARGE).expand(3, -1)
    best = int(logits[0].argmax())
    rows = [
        create_row(temperature=0.1, top_k=1, logit_bias={best: -100, 3: 100}, logprobs=2),
        create_row(temperature=0),
        create_row(temperature=0, repetition_penalty=2.0, logprobs=0),
    ]
    biased, silent, plain = sample(logits.clone(), rows)
    expected = logits[0].log_softmax(dim=-1)
    assert biased.token_id == biased.logprobs.chosen.token_id == 3
    assert biased.logprobs.chosen.logprob == pytest.approx(expected[3].item())
    assert [token.token_id for token in biased.logprobs.top] == expected.topk(2).indices.tolist()
    assert silent.logprobs is None
    assert plain.logprobs.top == []
    assert plain.logprobs.chosen.logprob == pytest.approx(expected[plain.token_id].item())


def test_samples_no_rows():
    assert sample(torch.zeros(0, SMALL), []) == []
