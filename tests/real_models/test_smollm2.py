"""A trained model with a real tokenizer and context: SmolLM2, against HuggingFace's `generate`."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from src.engine.factory import BLOCK_SIZE
from src.main import create_app
from tests.api.openai.test_ranking import expected_scores
from tests.conftest import create_settings, wait_until
from tests.support.chat_apis import CHAT_APIS, ChatApi, Turn
from tests.support.servers import ROOT, LocalServer, serve_app
from tests.support.wire import post

FOLDER = ROOT / ".real-models" / "SmolLM2-135M-Instruct"
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
MAX_TOKENS = 24
COUNTRIES = [
    "France",
    "Japan",
    "Italy",
    "Spain",
    "Egypt",
    "Norway",
    "Peru",
    "Kenya",
    "India",
    "Cuba",
]


@pytest.fixture(scope="module", autouse=True)
def _needs_the_model() -> None:
    if not FOLDER.exists():
        assert "CI" not in os.environ, "make real-models"
        pytest.skip("needs trained models: make real-models")


@pytest.fixture(scope="module")
def oracle() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    settings = create_settings(model_name=str(FOLDER), dtype="float32", kv_cache_gb=2)
    with serve_app(create_app(settings)) as server:
        yield server
        wait_until(lambda: server.engine.num_live == 0)


def ask(server: LocalServer, messages: list[dict], **fields: object) -> dict:
    body = {"model": server.engine.model_name, "messages": messages, "max_tokens": MAX_TOKENS}
    answer = post(server, "/v1/chat/completions", **body | {"temperature": 0} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def chat(server: LocalServer, messages: list[dict], **fields: object) -> str:
    return ask(server, messages, **fields)["choices"][0]["message"]["content"]


def expected(oracle: PreTrainedModel, messages: list[dict]) -> str:
    """Returns the greedy answer of HuggingFace's `generate` to a conversation."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = oracle.generate(**prompt, max_new_tokens=MAX_TOKENS, do_sample=False)
    return tokenizer.decode(output[0][prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_chat_equals_that_of_huggingface(server, oracle):
    answer = chat(server, CAPITAL)
    assert "Paris" in answer
    assert answer == expected(oracle, CAPITAL)


@pytest.mark.parametrize("api", CHAT_APIS, ids=str)
def test_each_chat_api_answers_and_streams(api: ChatApi, server):
    asked = {"turns": [Turn("user", CAPITAL[0]["content"])], "max_tokens": MAX_TOKENS}
    whole = api.ask(server, **asked)
    assert "Paris" in whole.text
    assert api.stream(server, **asked) == whole


def test_each_of_ten_turns_finds_the_turns_before_it_though_others_came_between(server, oracle):
    messages = [{"role": "system", "content": "You are a patient teacher of geography."}]
    num_tokens = 0
    for turn, country in enumerate(COUNTRIES):
        messages.append({"role": "user", "content": f"What is the capital of {country}?"})
        others = [[{"role": "user", "content": f"{turn} times {one} is?"}] for one in range(3)]
        with ThreadPoolExecutor(4) as pool:
            ours, *_ = pool.map(lambda one: ask(server, one), [messages, *others])
        answer = ours["choices"][0]["message"]["content"]
        assert answer == expected(oracle, messages)
        cached = ours["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached >= num_tokens - BLOCK_SIZE["cpu"]
        num_tokens = ours["usage"]["total_tokens"]
        messages.append({"role": "assistant", "content": answer})


def test_a_prompt_of_four_thousand_tokens_equals_that_of_huggingface(server, oracle):
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    text = "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    prompt = tokenizer(text)["input_ids"][:4096]
    output = oracle.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False)
    body = {"model": server.engine.model_name, "prompt": prompt, "max_tokens": 4}
    answer = post(server, "/v1/completions", **body, temperature=0).json()
    assert answer["choices"][0]["text"] == tokenizer.decode(output[0][len(prompt) :])


def test_an_answer_does_not_depend_on_its_neighbours(server):
    questions = [f"What is {number} plus {number}?" for number in range(8)]
    alone = [chat(server, [{"role": "user", "content": one}]) for one in questions]
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda one: chat(server, [{"role": "user", "content": one}]), questions)
        )
    assert together == alone


def test_a_schema_shapes_the_answer(server):
    schema = {
        "type": "object",
        "properties": {"capital": {"enum": ["Paris", "Rome"]}},
        "required": ["capital"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    assert json.loads(chat(server, CAPITAL, response_format=shape)) == {"capital": "Paris"}


def test_int8_weights_give_a_sensible_answer():
    settings = create_settings(model_name=str(FOLDER), quantization="int8", kv_cache_gb=1)
    with serve_app(create_app(settings)) as server:
        assert "Paris" in chat(server, CAPITAL)


def test_processed_logprobs_are_those_of_huggingface_at_the_temperature(server, oracle):
    prompt = "The largest city of France is"
    body = {"prompt": prompt, "max_length": 6, "temperature": 0.5, "top_p": 1, "seed": 1}
    body |= {"logprobs": 5, "logprobs_mode": "processed_logprobs"}
    positions = post(server, "/generate", **body).json()["generated"][0]["logprobs"]
    prompt_ids = AutoTokenizer.from_pretrained(FOLDER)(prompt)["input_ids"]
    token_ids = prompt_ids + [position["id"] for position in positions]
    with torch.inference_mode():
        logits = oracle(torch.tensor([token_ids])).logits[0, len(prompt_ids) - 1 : -1]
    for row, position in zip((logits / 0.5).log_softmax(dim=-1), positions, strict=True):
        tokens = [position, *position["top"]]
        expected = row[[token["id"] for token in tokens]].tolist()
        assert [token["logprob"] for token in tokens] == pytest.approx(expected, abs=0.01)
        assert expected[1] == row.max().item()


def test_a_document_is_ranked_by_huggingfaces_probability_of_yes(server):
    documents = ["The capital of France is Paris.", "A dragon slept."]
    body = {"model": server.engine.model_name, "query": "What is the capital of France?"}
    answer = post(server, "/v1/rerank", **body, documents=documents)
    assert answer.status_code == 200, answer.text
    found = {one["index"]: one["relevance_score"] for one in answer.json()["results"]}
    expected = expected_scores(server, FOLDER, documents)
    assert [found[0], found[1]] == pytest.approx(expected, abs=1e-3)
