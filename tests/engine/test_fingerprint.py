"""The fingerprint changes with what the answer to a seed depends on, and with nothing else."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from src.engine.config import EngineConfig
from src.engine.fingerprint import find_fingerprint
from src.engine.model.loader import LoadedModel, load_model
from src.text.chat_template import ChatTemplate
from tests.support.native import needs_kernels
from tests.support.tiny_models import create_tokenizer


@pytest.fixture
def config(tiny_model) -> EngineConfig:
    return EngineConfig(str(tiny_model()), device="cpu")


@pytest.fixture
def loaded(config) -> LoadedModel:
    return load_model(config)


def test_the_same_model_in_another_folder_has_the_same_fingerprint(loaded, config, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(config.model_name, folder)
    copied = replace(config, model_name=str(folder))
    fingerprint = find_fingerprint(load_model(copied), copied)
    assert fingerprint == find_fingerprint(loaded, config)
    assert len(fingerprint) == 10


def test_other_weights_change_it(loaded, config):
    before = find_fingerprint(loaded, config)
    with torch.no_grad():
        list(loaded.model.parameters())[-1].add_(0.01)
    assert find_fingerprint(loaded, config) != before


def test_other_fields_of_the_configuration_change_it(loaded, config):
    before = find_fingerprint(loaded, config)
    loaded.model.config.layer_norm_epsilon = 0.1
    assert find_fingerprint(loaded, config) != before


def test_the_parts_of_the_model_change_it(loaded, config):
    source = "{{ messages[0].content }}"
    template = ChatTemplate(source, {}, loaded.tokenizer)
    changes = (
        {"chat_template": template},
        {"tokenizer": create_tokenizer("<other>").backend_tokenizer},
        {"max_model_len": loaded.max_model_len - 1},
    )
    found = {find_fingerprint(replace(loaded, **change), config) for change in changes}
    assert len(found | {find_fingerprint(loaded, config)}) == 4


def test_number_format_and_options_change_it(loaded, config):
    rounded = load_model(replace(config, dtype="bfloat16"))
    found = {find_fingerprint(rounded, config), find_fingerprint(loaded, config)}
    found |= {
        find_fingerprint(loaded, replace(config, **change))
        for change in ({"engine": "reference"}, {"quantization": "int8"})
    }
    assert len(found) == 4


@needs_kernels
def test_the_kernels_change_it(loaded, config):
    auto, native, pytorch = (
        find_fingerprint(loaded, replace(config, kernels=kernels))
        for kernels in ("auto", "native", "pytorch")
    )
    assert auto == native != pytorch


def test_other_weights_in_16_bits_change_it(tiny_model, tmp_path):
    found = set()
    for number in range(2):
        folder = Path(shutil.copytree(tiny_model(), tmp_path / str(number)))
        path = folder / "model.safetensors"
        weights = {name: one.bfloat16() for name, one in load_file(path).items()}
        weights["transformer.h.1.mlp.c_fc.weight"] += number
        save_file(weights, path, {"format": "pt"})
        config = EngineConfig(str(folder), device="cpu")
        found.add(find_fingerprint(load_model(config), config))
    assert len(found) == 2
