"""Sampling defaults of generation_config.json; other invalid entries for `generate` are refused."""

import json
import shutil
from pathlib import Path

import pytest

from src.core.sampling_defaults import API_DEFAULTS
from src.engine.config import EngineConfig
from src.engine.model.generation_config import SAMPLING_NAMES
from src.engine.model.gguf.entries import SAMPLING_KEYS
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


def sampling_defaults(folder: Path, *, setting: str = "auto", **entries: object) -> dict:
    path = folder / FILES[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    config = EngineConfig(str(folder), device="cpu", generation_config=setting)
    return dict(load_model(config).sampling_defaults)


def test_each_parameter_with_a_default_of_models_has_one_of_the_apis():
    assert API_DEFAULTS.keys() == set(SAMPLING_NAMES) == SAMPLING_KEYS.keys()


VALID = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1}


def test_sampling_parameters_are_the_models_defaults(model, caplog):
    caplog.set_level("INFO")
    others = {"do_sample": False, "max_new_tokens": 5, "typical_p": 0.5}
    assert sampling_defaults(model, **VALID, **others) == VALID
    assert "the model's sampling defaults: temperature=0.6, top_p=0.95" in caplog.text


def test_a_setting_turns_them_off(model):
    assert sampling_defaults(model, setting="none", **VALID) == {}


def test_null_and_a_missing_file_are_no_defaults(model):
    assert sampling_defaults(model, temperature=None, top_k=5) == {"top_k": 5}
    (model / FILES[0]).unlink()
    config = EngineConfig(str(model), device="cpu")
    assert load_model(config).sampling_defaults == {}


def test_minus_one_is_the_top_k_of_all_tokens(model):
    assert sampling_defaults(model, top_k=-1) == {"top_k": 0}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("temperature", -1, "temperature must be in [0, 2], not -1"),
        ("temperature", "0.6", "temperature must be a number"),
        ("temperature", float("nan"), "temperature must be in [0, 2], not nan"),
        ("top_p", 0, "top_p must be in (0, 1], not 0"),
        ("top_p", [0.5], "top_p must be a number"),
        ("top_k", 2.5, "top_k must be an integer"),
        ("top_k", -2, "top_k must be 0 (off) or more, not -2"),
        ("min_p", True, "min_p must be a number"),
        ("repetition_penalty", 0, "repetition_penalty must be in (0, 10], not 0"),
    ],
)
def test_an_invalid_default_is_ignored_with_a_warning(model, name, value, reason, caplog):
    others = {key: VALID[key] for key in VALID if key != name}
    assert sampling_defaults(model, **others, **{name: value}) == others
    expected = f"generation_config.json has {name}={value!r}: {reason}; it is ignored"
    assert expected in [record.message for record in caplog.records]
