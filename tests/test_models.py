"""The wire's models accept what they document and refuse the rest by name."""

import math

import pytest
from pydantic import ValidationError

from src.api.fields.bounds import MAX_LOGPROBS
from src.models import (
    MAX_PROMPTS,
    MAX_SEQUENCES,
    GenerateBatchRequest,
    GenerateRequest,
)


def test_a_prompt_alone_is_a_request_and_leaves_all_else_to_the_server():
    request = GenerateRequest(prompt="Once upon a time")
    assert request.num_return_sequences == 1
    for field in ("max_length", "temperature", "top_p", "seed", "stop"):
        assert getattr(request, field) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"max_length": 1},
        {"temperature": 0},
        {"temperature": 2},
        {"temperature": 0.5},
        {"top_p": 1},
        {"top_p": 0.01},
        {"top_k": 0},
        {"top_k": 50},
        {"num_return_sequences": MAX_SEQUENCES},
        {"seed": 0},
        {"seed": -(2**63)},
        {"seed": 2**63 - 1},
        {"stop": ["\n"] * 16},
        {"stop": []},
        {"min_length": 0},
        {"min_length": 2**40},
        {"min_p": 0},
        {"min_p": 1},
        {"repetition_penalty": 0.01},
        {"repetition_penalty": 10},
        {"presence_penalty": -2},
        {"frequency_penalty": 2},
        {"logit_bias": {}},
        {"logit_bias": {0: -100, 5: 100.0}},
        {"logit_bias": dict.fromkeys(range(1024), 1.0)},
        {"stop_token_ids": [0]},
        {"stop_token_ids": [7] * 64},
        {"ignore_eos": True},
        {"logprobs": 0},
        {"logprobs": MAX_LOGPROBS},
        {"prompt_logprobs": 0},
        {"prompt_logprobs": MAX_LOGPROBS},
        {"return_full_text": False},
        {"stream": True},
    ],
)
def test_accepts_the_edges_of_every_range(fields):
    accepted = GenerateRequest(prompt="x", **fields).model_dump()
    assert accepted == accepted | fields


def test_one_stop_text_is_a_list_of_one():
    assert GenerateRequest(prompt="x", stop="\n").stop == ["\n"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", None),
        ("prompt", ["a"]),
        ("prompt", 1),
        ("max_length", 0),
        ("max_length", -1),
        ("max_length", 1.5),
        ("max_length", "10"),
        ("max_length", True),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "0.7"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("top_k", -1),
        ("top_k", 2**31),
        ("num_return_sequences", 0),
        ("num_return_sequences", 10**9),
        ("seed", -(2**64)),
        ("seed", 2**64),
        ("stop", ""),
        ("stop", [""]),
        ("stop", ["a"] * 257),
        ("stop", "a" * 1025),
        ("best_of", 2),
        ("min_length", -1),
        ("min_length", 1.0),
        ("min_length", None),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("repetition_penalty", 0),
        ("repetition_penalty", 10.1),
        ("repetition_penalty", math.inf),
        ("presence_penalty", -2.1),
        ("presence_penalty", "1"),
        ("frequency_penalty", 2.1),
        ("frequency_penalty", True),
        ("logit_bias", {-1: 1}),
        ("logit_bias", {"the": 1}),
        ("logit_bias", {"1.5": 1}),
        ("logit_bias", {1: 100.1}),
        ("logit_bias", {1: -101}),
        ("logit_bias", {1: "1"}),
        ("logit_bias", {1: None}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", [1]),
        ("logit_bias", None),
        ("logit_bias", dict.fromkeys(range(1025), 1.0)),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["1"]),
        ("stop_token_ids", [1.0]),
        ("stop_token_ids", [True]),
        ("stop_token_ids", 1),
        ("stop_token_ids", [7] * 65),
        ("ignore_eos", 1),
        ("ignore_eos", "true"),
        ("logprobs", -1),
        ("logprobs", MAX_LOGPROBS + 1),
        ("logprobs", 10**6),
        ("logprobs", True),
        ("prompt_logprobs", -1),
        ("prompt_logprobs", MAX_LOGPROBS + 1),
        ("prompt_logprobs", 1.5),
        ("return_full_text", None),
        ("return_full_text", "no"),
        ("stream", 1),
        ("stream", "true"),
        ("stream", None),
    ],
)
def test_refuses_what_is_out_of_range_and_names_the_field(field, value):
    with pytest.raises(ValidationError) as caught:
        GenerateRequest(**({"prompt": "x"} | {field: value}))
    assert {problem["loc"][0] for problem in caught.value.errors()} == {field}


def test_logit_bias_keys_are_decimal_token_ids():
    request = GenerateRequest.model_validate_json('{"prompt": "x", "logit_bias": {"17": -1}}')
    assert request.logit_bias == {17: -1.0}


def test_a_batch_cannot_be_streamed():
    with pytest.raises(ValidationError):
        GenerateBatchRequest(prompts=["x"], stream=True)


@pytest.mark.parametrize("prompts", [[], [""], ["a"] * (MAX_PROMPTS + 1), "a", [1]])
def test_a_batch_has_one_to_many_prompts(prompts):
    with pytest.raises(ValidationError):
        GenerateBatchRequest(prompts=prompts)


@pytest.mark.parametrize("model", [GenerateRequest, GenerateBatchRequest])
def test_the_documented_examples_are_valid(model):
    schema = model.model_json_schema()
    for example in schema["examples"]:
        model(**example)
    for name, field in schema["properties"].items():
        assert field.get("description"), name
        for value in field.get("examples", []):
            model(**(schema["examples"][0] | {name: value}))
