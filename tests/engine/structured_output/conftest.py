"""Fixtures of tests that run grammars in an engine: a tiny model, and grammars of its tokenizer."""

from pathlib import Path

import pytest

from src.engine.config import EngineConfig
from src.engine.model.loader import load_model
from tests.support.grammars import Grammars


@pytest.fixture(scope="module")
def folder(tiny_model) -> Path:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def grammars(folder) -> Grammars:
    loaded = load_model(EngineConfig(str(folder)))
    return Grammars(loaded.tokenizer, loaded.vocab_size)
