"""Weights that stay in 16 bits until they are packed: the same numbers, without a copy."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from src.engine.config import EngineConfig
from src.engine.factory import create_core, create_engine
from src.engine.model.compatibility import probe_token_ids
from src.engine.model.loader import LoadedModel, load_model
from src.engine.model.weights import stored as stored_weights
from src.engine.model.weights.stored import StoredLinear, restore_linears
from src.engine.reference.engine import ReferenceEngine
from tests.support.engines import SteppedCore, create_request, oracle
from tests.support.tiny_models import BATCHED, UNUSUAL, create_model_folder

FORMATS = (torch.bfloat16, torch.float16)


@pytest.fixture
def half_model(tmp_path):
    """Returns the folder of a tiny model in 16 bits."""

    def create(architecture: str, dtype: torch.dtype = torch.bfloat16) -> Path:
        folder = create_model_folder(tmp_path / architecture, architecture)
        path = folder / "model.safetensors"
        weights = {name: weight.to(dtype) for name, weight in load_file(path).items()}
        save_file(weights, path, {"format": "pt"})
        return folder

    return create


def load(folder: Path, **values: object) -> LoadedModel:
    return load_model(EngineConfig(str(folder), device="cpu", **values))


def by_transformers(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def find_stored(model: nn.Module) -> list[StoredLinear]:
    return [layer for layer in model.modules() if isinstance(layer, StoredLinear)]


def is_mapped(tensor: torch.Tensor, path: Path) -> bool:
    """Checks whether a tensor's data is in the process's mapping of a file."""
    ranges = re.findall(
        rf"^(\w+)-(\w+) .*{path}$", Path("/proc/self/maps").read_text(), re.MULTILINE
    )
    return any(int(start, 16) <= tensor.data_ptr() < int(stop, 16) for start, stop in ranges)


@torch.inference_mode()
@pytest.mark.parametrize("chunk_size", [1, 1000, 2**18])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_gives_what_one_in_float32_gives(monkeypatch, has_bias, chunk_size):
    monkeypatch.setattr(stored_weights, "CHUNK_SIZE", chunk_size)
    plain = nn.Linear(37, 53, bias=has_bias)
    plain.weight.data = plain.weight.data.bfloat16().float()
    layer = StoredLinear(plain.weight.bfloat16(), plain.bias)
    rows = torch.randn(2, 5, 37)
    torch.testing.assert_close(layer(rows), plain(rows))
    assert torch.equal(layer.weight, plain.weight)
    assert torch.equal(layer.to_linear()(rows), plain(rows))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("architecture", [*BATCHED, *UNUSUAL])
def test_logits_are_those_of_transformers_in_float32(half_model, architecture, dtype):
    folder = half_model(architecture, dtype)
    loaded, plain = load(folder), by_transformers(folder)
    assert find_stored(loaded.model)
    token_ids = probe_token_ids(loaded)
    expected = plain(token_ids).logits
    torch.testing.assert_close(loaded.model(token_ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert {one.dtype for one in loaded.model.parameters()} == {torch.float32}
    assert loaded.model.dtype == torch.float32
    restore_linears(loaded.model)
    assert not find_stored(loaded.model)
    torch.testing.assert_close(loaded.model(token_ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_matrices_stay_in_the_file(half_model, architecture):
    folder = half_model(architecture)
    model = load(folder).model
    layers = find_stored(model)
    assert all(is_mapped(layer.stored, folder / "model.safetensors") for layer in layers)
    linears = [one for one in by_transformers(folder).modules() if type(one) in (nn.Linear, Conv1D)]
    tied = model.config.tie_word_embeddings
    assert len(layers) == len(linears) - tied
    if tied:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("values", [{"dtype": "bfloat16"}, {"dtype": "float16"}])
def test_other_formats_than_float32_are_as_transformers_loads_them(half_model, values):
    assert not find_stored(load(half_model("llama"), **values).model)


def test_float32_checkpoints_are_as_transformers_loads_them(tiny_model):
    folder = tiny_model("llama")
    model = load(folder).model
    assert not find_stored(model)
    assert is_mapped(model.model.layers[0].mlp.up_proj.weight, folder / "model.safetensors")


@pytest.mark.parametrize("kernels", ["auto", "pytorch"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_the_engine_gives_the_tokens_of_huggingface(half_model, architecture, kernels):
    folder = half_model(architecture)
    config = EngineConfig(str(folder), device="cpu", kernels=kernels, kv_cache_gb=0.01)
    loaded = load_model(config)
    stepped = SteppedCore(create_core(loaded, config))
    assert not find_stored(loaded.model)
    stepped.add(create_request(temperature=0, ignore_eos=True))
    plain = load(folder)
    restore_linears(plain.model)
    assert stepped.finish()["a"].token_ids == oracle(plain, eos_token_id=None)


@pytest.mark.parametrize("kind", ["fp16", "int8"])
@pytest.mark.parametrize("kernels", ["auto", "pytorch"])
def test_quantized_layers_are_those_of_a_float32_checkpoint(half_model, tmp_path, kind, kernels):
    folder = half_model("llama")
    by_transformers(folder).save_pretrained(tmp_path / "float32")
    for path in folder.glob("tokenizer*"):
        (tmp_path / "float32" / path.name).write_bytes(path.read_bytes())
    weights = []
    for path in (folder, tmp_path / "float32"):
        config = EngineConfig(
            str(path), device="cpu", quantization=kind, kernels=kernels, kv_cache_gb=0.01
        )
        loaded = load_model(config)
        create_core(loaded, config)
        weights.append(loaded.model.model.layers[1].mlp.down_proj.weight)
    assert torch.equal(*weights)


def test_the_reference_engine_gets_layers_in_float32(half_model):
    config = EngineConfig(str(half_model("bloom")), device="cpu")
    loaded = load_model(config)
    assert find_stored(loaded.model)
    engine = create_engine(loaded, config, lambda update: None)
    engine.shutdown()
    assert isinstance(engine, ReferenceEngine)
    assert not find_stored(loaded.model)


def test_without_onednn_layers_become_those_of_pytorch(half_model, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    config = EngineConfig(str(half_model("llama")), device="cpu", kv_cache_gb=0.01)
    loaded = load_model(config)
    create_core(loaded, config)
    assert not find_stored(loaded.model)
    assert type(loaded.model.model.layers[0].mlp.up_proj) is nn.Linear
