"""Gemma 3 from its GGUF file: sliding windows, on prompts several times as long as the window."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from src.engine.config import EngineConfig
from src.engine.model.loader import LoadedModel, load_model
from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.servers import ROOT, LocalServer, serve_app
from tests.support.wire import post

FILE = ROOT / ".real-models" / "gemma-3-270m-q4_k_m.gguf"
WINDOW = 512
NUM_TOKENS = 8


@pytest.fixture(scope="module", autouse=True)
def _needs_the_model() -> None:
    if not FILE.exists():
        assert "CI" not in os.environ, "make real-models"
        pytest.skip("needs trained models: make real-models")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(EngineConfig(str(FILE), device="cpu"))


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serve_app(create_app(create_settings(model_name=str(FILE), kv_cache_gb=1))) as server:
        yield server
        wait_until(lambda: server.engine.num_live == 0)


def prompt_of(loaded: LoadedModel, num_tokens: int, start: int = 0) -> list[int]:
    """Returns tokens of docs/architecture.md, from this character on."""
    text = (ROOT / "docs" / "architecture.md").read_text()[start:]
    return loaded.tokenizer.encode(text).ids[:num_tokens]


def complete(server: LocalServer, prompt: list[int]) -> str:
    body = {"model": server.engine.model_name, "prompt": prompt, "max_tokens": NUM_TOKENS}
    answer = post(server, "/v1/completions", **body, temperature=0)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def expected(loaded: LoadedModel, prompt: list[int]) -> str:
    """Returns the greedy continuation of HuggingFace's `generate` with the same weights."""
    output = loaded.model.generate(
        torch.tensor([prompt]), max_new_tokens=NUM_TOKENS, do_sample=False
    )
    return loaded.tokenizer.decode(output[0][len(prompt) :].tolist(), skip_special_tokens=True)


@pytest.mark.parametrize("num_tokens", [WINDOW - 3, 4 * WINDOW + 5])
def test_a_prompt_within_and_beyond_the_window_equals_that_of_huggingface(
    server, loaded, num_tokens
):
    prompt = prompt_of(loaded, num_tokens)
    assert complete(server, prompt) == expected(loaded, prompt)


def test_an_answer_beyond_the_window_does_not_depend_on_its_neighbours(server, loaded):
    prompts = [prompt_of(loaded, 2 * WINDOW, 100 * number) for number in range(3)]
    alone = [complete(server, prompt) for prompt in prompts]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda prompt: complete(server, prompt), prompts)) == alone
