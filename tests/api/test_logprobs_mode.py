"""`logprobs_mode`: log-probabilities or logits, before or after the sampling parameters."""

import json
import math

import pytest
import torch
from fastapi.testclient import TestClient
from transformers import AutoModelForCausalLM
from transformers.generation.logits_process import TopPLogitsWarper

from tests.support.bundled import BUNDLED_FOLDER
from tests.support.servers import parse_events

TEXT = "Once upon a time, there lived a"
TOP = 5
TEMPERATURE = 0.5
MODEL = {"model": "storyteller"}
IMPOSSIBLE = -9999


@pytest.fixture(scope="module")
def logits(client: TestClient) -> torch.Tensor:
    """Returns HuggingFace's logits of the token after TEXT, (vocab_size,)."""
    model = AutoModelForCausalLM.from_pretrained(BUNDLED_FOLDER, dtype=torch.float32)
    token_ids = client.post("/tokenize", json=MODEL | {"prompt": TEXT}).json()["tokens"]
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).logits[0, -1]


def ask(client: TestClient, **fields: object) -> dict:
    """Returns the log-probabilities of the first new token of /generate."""
    body = {"prompt": TEXT, "max_length": 1, "seed": 1, "logprobs": TOP, "top_p": 1} | fields
    response = client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    (position,) = response.json()["generated"][0]["logprobs"]
    return position


def check(position: dict, expected: torch.Tensor) -> None:
    """Compares a position with values of all tokens, (vocab_size,)."""
    for token in (position, *position["top"]):
        value = expected[token["id"]].item()
        value = IMPOSSIBLE if math.isinf(value) else value
        assert token["logprob"] == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("temperature", [TEMPERATURE, 2, 0])
def test_each_mode_is_as_its_name_says(client, logits, temperature):
    divisor = temperature or 1
    expected = {
        None: logits.log_softmax(dim=-1),
        "raw_logprobs": logits.log_softmax(dim=-1),
        "processed_logprobs": (logits / divisor).log_softmax(dim=-1),
        "raw_logits": logits,
        "processed_logits": logits / divisor,
    }
    best = logits.topk(TOP).indices.tolist()
    for mode, values in expected.items():
        position = ask(client, temperature=temperature, logprobs_mode=mode)
        check(position, values)
        assert [token["id"] for token in position["top"]] == best


def test_processed_ones_show_what_top_p_drops(client, logits):
    asked = {"temperature": TEMPERATURE, "top_p": 0.3, "logprobs_mode": "processed_logprobs"}
    position = ask(client, **asked, logprobs=20)
    warped = TopPLogitsWarper(0.3)(torch.zeros(1, 1), logits[None] / TEMPERATURE)[0]
    check(position, warped.log_softmax(dim=-1))
    values = [token["logprob"] for token in position["top"]]
    kept = [value for value in values if value != IMPOSSIBLE]
    assert 0 < len(kept) < len(values)
    assert sum(map(math.exp, kept)) == pytest.approx(1, abs=1e-4)


def test_processed_ones_show_a_bias(client, logits):
    banned = int(logits.argmax())
    asked = {"temperature": 1, "logit_bias": {str(banned): -100}}
    position = ask(client, **asked, logprobs_mode="processed_logits")
    biased = logits.clone()
    biased[banned] -= 100
    check(position, biased)
    assert banned not in [token["id"] for token in position["top"]]


def test_completions_and_chats_have_the_same_modes(client, logits):
    fields = MODEL | {"temperature": TEMPERATURE, "top_p": 1, "seed": 1, "max_tokens": 1}
    fields |= {"logprobs_mode": "processed_logprobs"}
    body = fields | {"prompt": TEXT, "logprobs": TOP}
    (choice,) = client.post("/v1/completions", json=body).json()["choices"]
    expected = (logits / TEMPERATURE).log_softmax(dim=-1).topk(TOP).values.tolist()
    top = sorted(choice["logprobs"]["top_logprobs"][0].values(), reverse=True)
    assert top[:TOP] == pytest.approx(expected, abs=1e-3)
    chat = fields | {"messages": [{"role": "user", "content": "Hi"}], "temperature": 2}
    chat |= {"logprobs": True, "top_logprobs": 20}
    (choice,) = client.post("/v1/chat/completions", json=chat).json()["choices"]
    (whole,) = choice["logprobs"]["content"]
    raw = chat | {"logprobs_mode": "raw_logits"}
    (choice,) = client.post("/v1/chat/completions", json=raw).json()["choices"]
    (unprocessed,) = choice["logprobs"]["content"]
    values, others = ([one["logprob"] for one in x["top_logprobs"]] for x in (whole, unprocessed))
    steps = [first - value for first, value in zip([values[0]] * 20, values, strict=True)]
    other_steps = [(others[0] - value) / 2 for value in others]
    assert steps == pytest.approx(other_steps, abs=1e-3)


def test_a_stream_has_the_same_values(client):
    body = {"prompt": TEXT, "max_length": 4, "seed": 1, "logprobs": 2, "temperature": TEMPERATURE}
    body |= {"logprobs_mode": "processed_logprobs"}
    whole = client.post("/generate", json=body).json()["generated"][0]["logprobs"]
    events = parse_events(client.post("/generate", json=body | {"stream": True}).text)
    deltas = [json.loads(data) for _, data in events if data != "[DONE]"]
    streamed = [position for delta in deltas for position in delta.get("logprobs", [])]
    assert [one["id"] for one in streamed] == [one["id"] for one in whole]
    values = [one["logprob"] for one in whole]
    assert [one["logprob"] for one in streamed] == pytest.approx(values, abs=1e-3)


def test_prompt_tokens_are_not_sampled_and_keep_the_models_own(client):
    body = {"prompt": TEXT, "max_length": 1, "temperature": TEMPERATURE, "prompt_logprobs": 1}
    own = client.post("/generate", json=body).json()["prompt_logprobs"]
    asked = body | {"logprobs": 1, "logprobs_mode": "processed_logits"}
    assert client.post("/generate", json=asked).json()["prompt_logprobs"] == own


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
def test_a_mode_needs_logprobs(client, path):
    body: dict = {"prompt": TEXT} if "chat" not in path else {"messages": []}
    if "chat" in path:
        body = {"messages": [{"role": "user", "content": "Hi"}]}
    body |= {"logprobs_mode": "raw_logits"} | (MODEL if path != "/generate" else {})
    response = client.post(path, json=body)
    assert response.status_code in (400, 422)
    assert "logprobs_mode needs logprobs" in response.text


def test_the_best_of_several_is_ranked_by_the_models_own(client):
    body = MODEL | {"prompt": TEXT, "best_of": 2, "logprobs": 1, "max_tokens": 2}
    assert client.post("/v1/completions", json=body).status_code == 200
    refused = client.post("/v1/completions", json=body | {"logprobs_mode": "raw_logits"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "logprobs_mode"


def test_other_modes_are_refused(client):
    body = {"prompt": TEXT, "logprobs": 1, "logprobs_mode": "cooked"}
    response = client.post("/generate", json=body)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "logprobs_mode"]
