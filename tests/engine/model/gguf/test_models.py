"""Models of GGUF files: the weights and configs of transformers' models, and refusals."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as TensorFormat
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from src.engine.config import EngineConfig
from src.engine.factory import create_core
from src.engine.model.loader import LoadedModel, load_model
from src.errors import ModelLoadError
from tests.support.engines import SteppedCore, create_request, oracle
from tests.support.gguf_files import SHAPES, create_model, tensors_of, write_gguf

TOKEN_IDS = torch.arange(60)[None]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def load(path: Path, **values: object) -> LoadedModel:
    return load_model(EngineConfig(str(path), device="cpu", **values))


def refusal(path: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.endswith(
        "MODEL_NAME=storyteller runs the bundled model, which needs no download."
    )
    return message


def write(tmp_path: Path, architecture: str = "llama", **changes: object) -> Path:
    """Writes a model with changed metadata."""
    return write_gguf(
        tmp_path / "model.gguf", create_model(architecture), architecture, changes=changes
    )


@torch.inference_mode()
def assert_same_logits(loaded: LoadedModel, model: torch.nn.Module) -> None:
    expected = model(TOKEN_IDS).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(loaded.model(TOKEN_IDS).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("architecture", SHAPES)
def test_a_model_is_that_of_transformers(tmp_path, architecture, is_tied, caplog):
    caplog.set_level("WARNING")
    model = create_model(architecture, tie_word_embeddings=is_tied)
    loaded = load(write_gguf(tmp_path / "model.gguf", model, architecture))
    assert not caplog.text
    assert_same_logits(loaded, model)
    assert type(loaded.model) is type(model)
    assert loaded.max_model_len == model.config.max_position_embeddings
    assert loaded.eos_token_ids == [0]


@pytest.mark.parametrize("tensor_format", [TensorFormat.F16, TensorFormat.BF16, TensorFormat.Q8_0])
def test_weights_are_floats_of_the_dtype_that_was_asked_for(tmp_path, tensor_format):
    path = write_gguf(tmp_path / "model.gguf", create_model("llama"), "llama", tensor_format)
    for dtype in ("float32", "bfloat16"):
        model = load(path, dtype=dtype).model
        assert {one.dtype for one in model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_the_engine_runs_it(tmp_path, quantization):
    path = write_gguf(tmp_path / "model.gguf", create_model("llama"), "llama", TensorFormat.Q8_0)
    config = EngineConfig(
        str(path), device="cpu", quantization=quantization, max_num_seqs=4, kv_cache_gb=0.01
    )
    stepped = SteppedCore(create_core(load_model(config), config))
    stepped.add(create_request(temperature=0, ignore_eos=True))
    answer = stepped.finish()["a"].token_ids
    assert len(answer) == 20
    if quantization == "none":
        assert answer == oracle(load(path), eos_token_id=None)


def test_biases_of_attention_and_mlp_are_loaded(tmp_path):
    model = create_model("llama", attention_bias=True, mlp_bias=True)
    assert_same_logits(load(write_gguf(tmp_path / "model.gguf", model, "llama")), model)


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_scaled_rotary_embeddings_are_those_of_transformers(tmp_path, kind):
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    entries = {"llama.rope.scaling.type": kind, "llama.rope.scaling.factor": 4.0}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = 32
        entries["llama.rope.scaling.original_context_length"] = 32
    model = create_model("llama", rope_parameters=rope)
    path = write_gguf(tmp_path / "model.gguf", model, "llama", changes=entries)
    assert_same_logits(load(path), model)


def write_with_factors(path: Path, monkeypatch: pytest.MonkeyPatch, change: float = 1) -> Path:
    """Writes a model like Llama 3.2, in which a tensor holds the divisors of frequencies."""
    model = create_model("llama", rope_parameters=LLAMA3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](model.config)
    factors = 1e4 ** (-torch.arange(0, 16, 2) / 16) / scaled
    factors[0] *= change
    monkeypatch.setattr(
        "tests.support.gguf_files.tensors_of",
        lambda *_: tensors_of(model, "llama") | {"rope_freqs.weight": factors.numpy()},
    )
    return write_gguf(path, model, "llama")


def test_rotary_factors_of_llama_3_are_recognised(tmp_path, monkeypatch):
    loaded = load(write_with_factors(tmp_path / "model.gguf", monkeypatch))
    assert loaded.model.config.rope_parameters == LLAMA3
    assert_same_logits(loaded, create_model("llama", rope_parameters=LLAMA3))


def test_other_rotary_factors_are_refused(tmp_path, monkeypatch):
    path = write_with_factors(tmp_path / "model.gguf", monkeypatch, change=1.5)
    assert "RoPE factors (rope_freqs.weight) other than Llama 3.1's" in refusal(path)


@pytest.mark.parametrize("architecture", ["mamba", "clip", "newer-than-this"])
def test_an_unknown_architecture_is_refused_with_those_known(tmp_path, architecture):
    message = refusal(write(tmp_path, **{"general.architecture": architecture}))
    assert f"has the architecture {architecture}; " in message
    assert all(name in message for name in SHAPES)
    assert "safetensors form" in message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"llama.expert_count": 8}, "with llama.expert_count, which"),
        ({"llama.attention.scale": 0.5}, "with llama.attention.scale, which"),
        ({"llama.rope.dimension_count": 8}, "with RoPE on a part of each head, which"),
        ({"llama.attention.value_length": 8}, "with values of another size than its keys, which"),
        ({"llama.rope.scaling.type": "longrope"}, "with RoPE scaling of the type longrope, which"),
        ({"llama.attention.head_count": [4, 2]}, "gives llama.attention.head_count as [4, 2], "),
        ({"llama.block_count": None}, "gives llama.block_count as None, "),
        (
            {"llama.block_count": 1},
            "has 9 tensors that its metadata do not ask for",
        ),
        ({"llama.block_count": 3}, "9 of the weights"),
        ({"llama.embedding_length": 64}, "of the weights"),
        ({"llama.attention.head_count": 3}, "cannot be used"),
    ],
)
def test_a_model_that_would_be_another_one_is_refused(tmp_path, changes, reason):
    assert reason in refusal(write(tmp_path, **changes))


def test_an_unknown_tensor_is_refused(tmp_path, monkeypatch):
    more = tensors_of(create_model("llama"), "llama")
    more["blk.0.attn_sinks.weight"] = more["output_norm.weight"]
    monkeypatch.setattr("tests.support.gguf_files.tensors_of", lambda *_: more)
    assert "with the tensor blk.0.attn_sinks.weight, which" in refusal(write(tmp_path))


def test_a_file_without_embeddings_is_refused(tmp_path, monkeypatch):
    fewer = tensors_of(create_model("llama"), "llama")
    del fewer["token_embd.weight"]
    monkeypatch.setattr("tests.support.gguf_files.tensors_of", lambda *_: fewer)
    assert "has no embeddings" in refusal(write(tmp_path))


def test_a_context_that_the_model_does_not_have_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match="more than the model's context of 128 tokens"):
        load(write(tmp_path), max_model_len=129)


def test_sampling_defaults_come_from_the_metadata(tmp_path):
    keys = {"temp": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.05, "penalty_repeat": 1.1}
    changes = {f"general.sampling.{key}": value for key, value in keys.items()}
    path = write(tmp_path, **changes)
    assert load(path).sampling_defaults == {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
    }
    assert load(path, generation_config="none").sampling_defaults == {}


def test_an_invalid_sampling_default_is_ignored_with_its_key(tmp_path, caplog):
    changes = {"general.sampling.temp": -1.0, "general.sampling.top_p": 0.5}
    assert load(write(tmp_path, **changes)).sampling_defaults == {"top_p": 0.5}
    assert "model.gguf has general.sampling.temp=-1.0: temperature must be" in caplog.text
