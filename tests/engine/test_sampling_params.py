"""Ranges of sampling parameters, and the messages of their refusals."""

import pytest

from src.engine.sampling_params import MAX_LOGPROBS, SamplingParams

NAN, INF = float("nan"), float("inf")

REFUSED = {
    "max_tokens": [0, -1],
    "temperature": [-0.1, 2.1, NAN, INF],
    "top_p": [0, -0.5, 1.1, NAN, INF],
    "top_k": [-1],
    "min_p": [-0.1, 1.1, NAN, INF],
    "repetition_penalty": [0, -1, 10.1, NAN, INF],
    "presence_penalty": [-2.1, 2.1, NAN, -INF],
    "frequency_penalty": [-2.1, 2.1, NAN, INF],
    "logprobs": [-1, MAX_LOGPROBS + 1],
    "prompt_logprobs": [-1, MAX_LOGPROBS + 1],
    "min_tokens": [-1, 101],
}
ACCEPTED = {
    "max_tokens": [1],
    "temperature": [0, 2],
    "top_p": [0.001, 1],
    "top_k": [0, 1, 10**6],
    "min_p": [0, 1],
    "repetition_penalty": [0.01, 10],
    "presence_penalty": [-2, 2],
    "frequency_penalty": [-2, 2],
    "logprobs": [None, 0, MAX_LOGPROBS],
    "prompt_logprobs": [None, 0, MAX_LOGPROBS],
    "min_tokens": [0, 100],
    "logit_bias": [{}, {0: -100, 7: 100.0}],
    "stop_token_ids": [(), (0, 5)],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values]
)
def test_refuses_values_out_of_range_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*not {value}$"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in ACCEPTED.items() for value in values]
)
def test_accepts_the_ends_of_each_range(name, value):
    assert getattr(SamplingParams(**{name: value}), name) == value


@pytest.mark.parametrize("value", [100.5, -101, NAN, INF])
def test_refuses_a_bias_out_of_range(value):
    message = rf"^logit_bias must be in \[-100, 100\], not {value} for token 3$"
    with pytest.raises(ValueError, match=message):
        SamplingParams(logit_bias={1: 5.0, 3: value})


def test_refuses_token_ids_below_zero():
    with pytest.raises(ValueError, match=r"^logit_bias must hold token ids of at least 0, not -1$"):
        SamplingParams(logit_bias={-1: 5.0})
    with pytest.raises(ValueError, match=r"^stop_token_ids must be at least 0, not -2$"):
        SamplingParams(stop_token_ids=(1, -2))


def test_refuses_an_empty_stop_text():
    with pytest.raises(ValueError, match=r"^stop must not contain an empty text$"):
        SamplingParams(stop=("a", ""))


def test_min_tokens_may_not_exceed_max_tokens():
    assert SamplingParams(max_tokens=5, min_tokens=5).min_tokens == 5
    message = r"^min_tokens must be in \[0, 5\] \(max_tokens\), not 6$"
    with pytest.raises(ValueError, match=message):
        SamplingParams(max_tokens=5, min_tokens=6)


def test_the_models_end_tokens_and_the_requests_end_it():
    assert SamplingParams().end_token_ids([1, 2]) == {1, 2}
    assert SamplingParams(stop_token_ids=(7,)).end_token_ids([1, 2]) == {1, 2, 7}


def test_ignore_eos_leaves_the_requests_own():
    assert SamplingParams(ignore_eos=True).end_token_ids([1, 2]) == set()
    assert SamplingParams(ignore_eos=True, stop_token_ids=(2,)).end_token_ids([1, 2]) == {2}


def test_can_be_hashed_with_a_bias():
    assert hash(SamplingParams(logit_bias={1: 2.0})) == hash(SamplingParams(logit_bias={1: 2.0}))


@pytest.mark.parametrize(("temperature", "is_greedy"), [(0, True), (1e-6, True), (0.01, False)])
def test_temperatures_near_zero_are_greedy(temperature, is_greedy):
    assert SamplingParams(temperature=temperature).is_greedy is is_greedy
