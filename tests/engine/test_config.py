"""EngineConfig takes every field from the setting that documents it."""

from dataclasses import MISSING, fields

import pytest

from src.config import Settings
from src.engine.config import SETTING_NAMES, EngineConfig

FIELDS = {field.name: field for field in fields(EngineConfig)}
DERIVED = {"fallback_model_name", "lora"}
"""Fields that follow from how a setting was set, and have no setting of their own."""

OTHER_VALUES = {
    "model_name": "other",
    "model_cache_dir": "other",
    "device": "cpu",
    "dtype": "float16",
    "quantization": "int8",
    "kernels": "pytorch",
    "max_model_len": 64,
    "trust_remote_code": True,
    "chat_template": "{{ other }}",
    "tool_call_format": "llama3",
    "reasoning_format": "think",
    "enable_thinking": False,
    "engine": "reference",
    "max_num_seqs": 7,
    "max_num_batched_tokens": 99,
    "generation_config": "none",
    "embedding_dimensions": "any",
    "num_speculative_tokens": 3,
    "kv_cache_gb": 0.5,
    "kv_cache_dtype": "bfloat16",
    "max_queue_size": 9,
    "max_queue_seconds": 11.0,
}


def create_settings(**values: object) -> Settings:
    return Settings(_env_file=None, **values)


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - DERIVED))
def test_every_field_is_the_setting_of_its_name(name):
    setting = SETTING_NAMES.get(name, name)
    config = create_settings(**{setting: OTHER_VALUES[name]}).engine_config()
    assert str(getattr(config, name)) == str(OTHER_VALUES[name])


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - DERIVED - {"model_name"}))
def test_every_default_is_the_settings(name):
    assert FIELDS[name].default is not MISSING
    assert getattr(create_settings().engine_config(), name) == FIELDS[name].default


def test_setting_names_are_of_fields_and_settings():
    assert SETTING_NAMES.keys() <= FIELDS.keys()
    assert set(SETTING_NAMES.values()) <= Settings.model_fields.keys()


def test_the_bundled_model_stands_in_for_the_default_model_alone():
    assert create_settings().engine_config().fallback_model_name == "storyteller"
    assert create_settings(model_name="gpt2").engine_config().fallback_model_name is None
