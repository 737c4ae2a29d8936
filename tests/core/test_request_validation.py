"""RequestValidator: each refusal names the field, the limit and the remedy."""

from dataclasses import replace

import pytest

from src.core.request_validation import ModelLimits, RequestLimits, RequestValidator
from src.engine.sampling_params import SamplingParams
from src.errors import ContextLengthError, InvalidRequestError

MODEL = ModelLimits(max_model_len=100, context=100, max_prompt_bytes=500, vocab_size=50, max_live=8)
PROMPT = [1, 2, 3]


def create_validator(model: ModelLimits = MODEL, **limits: int) -> RequestValidator:
    return RequestValidator(RequestLimits(**limits), model)


def test_the_size_of_a_text_is_counted_in_utf8_bytes():
    validator = create_validator(max_prompt_bytes=6)
    validator.check_prompt("ééé", ("prompt",))
    with pytest.raises(InvalidRequestError, match=r"7 bytes.* 6 \(MAX_PROMPT_BYTES\)") as caught:
        validator.check_prompt("éééa", ("prompts", 1))
    assert caught.value.field == ("prompts", 1)


def test_a_text_too_long_for_any_tokenization_exceeds_the_context():
    validator = create_validator()
    validator.check_prompt("a" * 500, ("prompt",))
    with pytest.raises(ContextLengthError, match="maximum context length is 100 tokens"):
        validator.check_prompt("a" * 501, ("prompt",))
    unknown = create_validator(replace(MODEL, max_prompt_bytes=None))
    unknown.check_prompt("a" * 501, ("prompt",))


@pytest.mark.parametrize("token_ids", [[-1], [50], [0, 49, 10**9]])
def test_token_ids_outside_of_the_vocabulary_are_refused(token_ids):
    create_validator().check_prompt([0, 49], ("prompt",))
    with pytest.raises(InvalidRequestError, match="valid ids are 0 to 49"):
        create_validator().check_prompt(token_ids, ("prompt",))


@pytest.mark.parametrize("field", ["logit_bias", "stop_token_ids"])
def test_token_ids_of_parameters_outside_of_the_vocabulary_are_refused(field):
    token_ids = {50: 1.0} if field == "logit_bias" else (50,)
    with pytest.raises(InvalidRequestError, match="There is no token 50") as caught:
        create_validator().check_params(SamplingParams(**{field: token_ids}))
    assert caught.value.field == (field,)


@pytest.mark.parametrize(
    ("stop", "limits"),
    [(("a", "b"), {"max_stop_texts": 1}), (("abc",), {"max_stop_length": 2})],
)
def test_a_limit_on_stop_texts_is_named(stop, limits):
    sampling_params = SamplingParams(stop=stop)
    create_validator().check_params(sampling_params)
    (name,) = limits
    with pytest.raises(InvalidRequestError, match=name.upper()) as caught:
        create_validator(**limits).check_params(sampling_params)
    assert caught.value.field == ("stop",)


@pytest.mark.parametrize(
    ("params", "n", "limits", "field", "message"),
    [
        ({"logprobs": 4}, 2, {"max_logprobs": 19}, "logprobs", "up to 20 log-probabilities"),
        ({"prompt_logprobs": 4}, 2, {"max_logprobs": 29}, "prompt_logprobs", "up to 30"),
        ({}, 4, {"max_sequences": 3}, "n", "MAX_REQUEST_SEQUENCES"),
        ({}, 9, {}, "n", "MAX_BATCH_SIZE and MAX_QUEUE_SIZE"),
    ],
)
def test_a_limit_on_one_request_is_named(params, n, limits, field, message):
    sampling_params = SamplingParams(max_tokens=2, **params)
    create_validator().check_generation([PROMPT], sampling_params, min(n, 8))
    with pytest.raises(InvalidRequestError, match=message) as caught:
        create_validator(**limits).check_generation([PROMPT], sampling_params, n)
    assert caught.value.field == (field,)


@pytest.mark.parametrize(
    ("num_prompt_tokens", "num_logprobs", "n", "expected"),
    [(10, None, 1, 90), (10, None, 5, 90), (10, 4, 1, 20), (10, 4, 2, 10), (99, 4, 1, 1)],
)
def test_the_default_of_max_tokens_fits_context_and_logprobs(
    num_prompt_tokens, num_logprobs, n, expected
):
    validator = create_validator(max_logprobs=100)
    assert validator.max_new_tokens(num_prompt_tokens, num_logprobs, n) == expected


def test_the_default_of_max_tokens_is_at_least_one():
    assert create_validator().max_new_tokens(100, None, 1) == 1
    with pytest.raises(ContextLengthError):
        create_validator().check_length(100, 1, ("prompt",))
