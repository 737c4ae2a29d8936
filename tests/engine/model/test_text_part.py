"""Text parts of multimodal checkpoints give the tokens of the whole model on text."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from src.engine.config import EngineConfig
from src.engine.factory import create_core
from src.engine.model.compatibility import IncompatibleModelError
from src.engine.model.loader import LoadedModel, load_model
from src.engine.model.text_part import MULTIMODAL_ARCHITECTURES
from tests.support.engines import SteppedCore, create_request, oracle
from tests.support.tiny_models import (
    CONTEXT,
    DELTA,
    EXPERTS,
    FAMILIES,
    GROUPED_HEADS,
    SHARED_EXPERT,
    SLIDING,
    create_tokenizer,
    write_model,
)

ENCODER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
ENCODER |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 4}
QWEN_ENCODER = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
QWEN_ENCODER |= {"out_hidden_size": 32, "patch_size": 4}
POSITIONS = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
WITH_SECTIONS = GROUPED_HEADS | {"rope_parameters": ROPE}
GROUPED_LLAMA = GROUPED_HEADS | {"model_type": "llama"}
GROUPED_QWEN = GROUPED_HEADS | {"model_type": "qwen2"}
CLIP = ENCODER | {"model_type": "clip_vision_model", "projection_dim": 8}
SIGLIP = ENCODER | {"model_type": "siglip_vision_model"}

BATCHED = {
    "aya_vision": {"text_config": SLIDING | {"model_type": "cohere2"}, "vision_config": SIGLIP},
    "cohere2_vision": {
        "text_config": SLIDING | {"model_type": "cohere2"},
        "vision_config": SIGLIP,
        "alignment_intermediate_size": 16,
    },
    "gemma3": {
        "text_config": SLIDING | {"layer_types": ["sliding_attention", "full_attention"]},
        "vision_config": ENCODER,
        "mm_tokens_per_image": 4,
    },
    "gemma4": {
        "text_config": FAMILIES["gemma4_text"] | {"max_position_embeddings": CONTEXT},
        "vision_config": ENCODER | {"num_key_value_heads": 2, "head_dim": 8},
        "audio_config": None,
    },
    "idefics3": {"text_config": GROUPED_LLAMA, "vision_config": ENCODER, "scale_factor": 2},
    "internvl": {
        "text_config": GROUPED_QWEN,
        "vision_config": ENCODER | {"image_size": [16, 16], "patch_size": [4, 4]},
    },
    "llava": {"text_config": GROUPED_LLAMA, "vision_config": CLIP},
    "llava_next": {"text_config": GROUPED_LLAMA, "vision_config": CLIP},
    "llava_onevision": {"text_config": GROUPED_QWEN, "vision_config": SIGLIP},
    "mistral3": {
        "text_config": GROUPED_HEADS | {"model_type": "mistral"},
        "vision_config": ENCODER | {"model_type": "pixtral", "head_dim": 8},
    },
    "qwen2_vl": {
        "text_config": WITH_SECTIONS,
        "vision_config": QWEN_ENCODER | {"embed_dim": 16, "hidden_size": 32},
    },
    "qwen2_5_vl": {"text_config": WITH_SECTIONS, "vision_config": QWEN_ENCODER},
    "qwen3_vl": {
        "text_config": WITH_SECTIONS | {"head_dim": 8},
        "vision_config": QWEN_ENCODER | POSITIONS,
    },
    "smolvlm": {"text_config": GROUPED_LLAMA, "vision_config": ENCODER, "scale_factor": 2},
}
"""Configs of models with a text part that the continuous engine runs."""

OTHERS = {
    "lfm2_vl": {
        "text_config": GROUPED_HEADS
        | {"model_type": "lfm2", "layer_types": ["conv", "full_attention"]},
        "vision_config": ENCODER,
        "projector_hidden_size": 16,
    },
    "llama4": {
        "text_config": GROUPED_HEADS | EXPERTS | {"head_dim": 8, "intermediate_size_mlp": 64},
        "vision_config": ENCODER
        | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
    },
    "qwen3_5": {"text_config": DELTA | {"head_dim": 8}, "vision_config": QWEN_ENCODER | POSITIONS},
    "qwen3_5_moe": {
        "text_config": DELTA | SHARED_EXPERT,
        "vision_config": QWEN_ENCODER | POSITIONS,
    },
}
"""Those that need the reference engine."""


def create_multimodal(folder: Path, model_type: str) -> PreTrainedModel:
    """Writes a tiny multimodal checkpoint; returns its model."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(BATCHED | OTHERS)[model_type])
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    create_tokenizer().save_pretrained(folder)
    return model


def load(folder: Path) -> LoadedModel:
    return load_model(EngineConfig(str(folder)))


@pytest.mark.parametrize("model_type", [*BATCHED, *OTHERS])
def test_the_text_part_gives_the_tokens_of_the_whole_model(tmp_path, model_type, caplog):
    whole = create_multimodal(tmp_path, model_type)
    loaded = load(tmp_path)
    expected = oracle(LoadedModel(whole, *[None] * 6), do_sample=False)  # type: ignore[arg-type]
    assert oracle(loaded, do_sample=False) == expected
    name = type(whole).__name__
    assert f"{name}: its text part is served, requests cannot have images" in caplog.messages
    assert name in MULTIMODAL_ARCHITECTURES
    assert not [one for one, _ in loaded.model.named_modules() if "vis" in one]
    config = EngineConfig(str(tmp_path), kv_cache_gb=0.01)
    if model_type in OTHERS:
        with pytest.raises(IncompatibleModelError):
            create_core(loaded, config)
    else:
        stepped = SteppedCore(create_core(loaded, config))
        stepped.add(create_request(temperature=0))
        assert stepped.finish()["a"].token_ids == expected


def rename_weights(folder: Path, rename: Callable[[str], str]) -> None:
    path = folder / "model.safetensors"
    weights = {rename(name): weight for name, weight in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})


def test_both_orders_of_prefixes_are_read(tmp_path):
    create_multimodal(tmp_path, "gemma3")
    expected = oracle(load(tmp_path), do_sample=False)
    old, new = "language_model.model.", "model.language_model."
    rename_weights(tmp_path, lambda name: name.replace(old, new))
    assert any(name.startswith(new) for name in load_file(tmp_path / "model.safetensors"))
    assert oracle(load(tmp_path), do_sample=False) == expected


def test_an_encoder_need_not_be_installed(tmp_path):
    """The encoder of gemma3n is in a package of its own."""
    write_model(tmp_path, "gemma3n_text", FAMILIES["gemma3n_text"])
    expected = oracle(load(tmp_path), do_sample=False)
    text_config = json.loads((tmp_path / "config.json").read_text())
    config = {
        "architectures": ["Gemma3nForConditionalGeneration"],
        "model_type": "gemma3n",
        "text_config": text_config,
        "eos_token_id": [0, 7],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").unlink()
    rename_weights(tmp_path, lambda name: name.replace("model.", "model.language_model.", 1))
    loaded = load(tmp_path)
    assert loaded.eos_token_ids == [0, 7]
    assert oracle(loaded, do_sample=False) == expected
