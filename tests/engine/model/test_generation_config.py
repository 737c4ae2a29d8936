"""Invalid entries for `generate` are refused with their file, their name and a remedy."""

import json
import shutil
from pathlib import Path

import pytest

from src.engine.config import EngineConfig
from src.engine.model.loader import load_model
from src.errors import ModelLoadError

FILES = ("generation_config.json", "config.json")


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))


def refusal(folder: Path, file: str, **entries: object) -> str:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    with pytest.raises(ModelLoadError) as caught:
        load_model(EngineConfig(str(folder), device="cpu"))
    message = str(caught.value)
    assert message.startswith(f"{path} has ")
    assert "Correct it, or remove it" in message
    assert "MODEL_NAME=storyteller" in message
    assert "weights" not in message
    return message


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("name", "value"),
    [("cache_implementation", ["a"]), ("max_new_tokens", -1), ("watermarking_config", [[5]])],
)
def test_an_invalid_entry_is_refused_by_name(model, file, name, value):
    assert f" has {name}={value!r}, which transformers refuses (" in refusal(
        model, file, **{name: value}
    )


def test_entries_that_are_invalid_together_are_all_named(model):
    message = refusal(model, FILES[0], num_beams=3, num_return_sequences=9, top_k=7)
    assert "num_beams=3" in message or "num_return_sequences=9" in message
    assert "top_k" not in message


def test_a_long_value_is_cut(model):
    message = refusal(model, FILES[0], cache_implementation=["a" * 99] * 99)
    assert "a" * 50 in message
    assert len(message) < 1000


def test_lists_that_have_no_effect_here_are_let_through(model):
    path = model / FILES[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bad_words_ids": [[5], [6, 7]]}))
    assert load_model(EngineConfig(str(model), device="cpu"))
