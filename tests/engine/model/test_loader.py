"""A model is loaded whole and exact, or refused with a paragraph that says what to do."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from src.engine.config import EngineConfig
from src.engine.model.loader import LoadedModel, load_model
from src.engine.model.weights.stored import restore_linears
from src.errors import ModelLoadError
from tests.support.tiny_models import ARCHITECTURES, CONTEXT, VOCAB_SIZE, create_model_folder

BUNDLED = "MODEL_NAME=storyteller runs the bundled model, which needs no download."
WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tiny_model, tmp_path):
    """Copies a gpt2, which the test may break."""
    return Path(shutil.copytree(tiny_model("gpt2"), tmp_path / "model"))


def load(folder, **values) -> LoadedModel:
    return load_model(EngineConfig(model_name=str(folder), **({"device": "cpu"} | values)))


def refusal(folder, **values) -> str:
    """Returns why the model is refused, in one paragraph."""
    with pytest.raises(ModelLoadError) as caught:
        load(folder, **values)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def refusal_with_remedy(folder, **values) -> str:
    """Returns why the model is refused; what was tried and the bundled model are named."""
    message = refusal(folder, **values)
    assert str(folder) in message
    assert message.endswith(BUNDLED)
    return message


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(folder: Path, drop: tuple[str, ...] = (), **values: torch.Tensor) -> None:
    weights = load_file(folder / WEIGHTS) | values
    for name in drop:
        del weights[name]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def write_own_code(folder: Path) -> None:
    """Changes the model to a type that only its own code defines."""
    edit_json(
        folder / "config.json",
        model_type="own",
        architectures=["OwnModel"],
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    )
    (folder / "own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import GPT2Config, GPT2LMHeadModel\n"
        f"Path({str(folder / 'it-ran')!r}).touch()\n"
        "class OwnConfig(GPT2Config):\n"
        "    model_type = 'own'\n"
        "class OwnModel(GPT2LMHeadModel):\n"
        "    config_class = OwnConfig\n"
    )


# Models that load.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loads_exactly_the_weights_of_the_files(tiny_model, architecture):
    folder = tiny_model(architecture)
    written = load_file(folder / WEIGHTS)
    loaded = load(folder)
    state = loaded.model.state_dict()
    for name, tensor in written.items():
        assert torch.equal(state[name], tensor), name
    stored = {state[name].data_ptr() for name in written}
    assert {tensor.data_ptr() for tensor in state.values()} == stored  # others are tied to those
    assert not loaded.model.training
    assert loaded.max_model_len == CONTEXT
    assert loaded.tokenizer.get_vocab_size() <= VOCAB_SIZE


def test_loads_a_checkpoint_of_the_model_without_its_head_as_gpt2_is_on_the_hub(model):
    written = load_file(model / WEIGHTS)
    older = {name.removeprefix("transformer."): tensor for name, tensor in written.items()}
    older["h.0.attn.bias"] = torch.ones(1, 1, CONTEXT, CONTEXT).tril()
    save_file(older, model / WEIGHTS, {"format": "pt"})
    state = load(model).model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in written.items())
    assert torch.equal(state["lm_head.weight"], written["transformer.wte.weight"])


def test_loads_sharded_weights(model, tiny_model):
    whole = AutoModelForCausalLM.from_pretrained(tiny_model("gpt2"))
    (model / WEIGHTS).unlink()
    whole.save_pretrained(model, max_shard_size="40KB")
    assert len(list(model.glob("*.safetensors"))) > 1
    state = load(model).model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in whole.state_dict().items())


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("auto", torch.float32),
        ("float32", torch.float32),
        ("float16", torch.float16),
        ("bfloat16", torch.bfloat16),
    ],
)
def test_on_the_cpu_the_weights_are_float32_unless_asked_otherwise(model, stored, asked, expected):
    written = {name: w.to(getattr(torch, stored)) for name, w in load_file(model / WEIGHTS).items()}
    save_file(written, model / WEIGHTS, {"format": "pt"})
    edit_json(model / "config.json", dtype=stored)
    loaded = load(model, dtype=asked).model
    restore_linears(loaded)
    assert {parameter.dtype for parameter in loaded.parameters()} == {expected}
    name = "transformer.h.0.mlp.c_fc"
    weight, source = loaded.get_submodule(name).weight, written[f"{name}.weight"].to(expected)
    assert torch.equal(weight if weight.shape == source.shape else weight.T, source)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("stored", "expected"), [("float32", torch.float16), ("bfloat16", torch.bfloat16)]
)
def test_on_cuda_the_weights_are_of_16_bits(model, stored, expected):
    edit_json(model / "config.json", dtype=stored)
    loaded = load(model, device="auto").model
    assert (loaded.device.type, loaded.dtype) == ("cuda", expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_auto_is_the_cpu_and_cuda_is_refused(tiny_model):
    assert load(tiny_model("gpt2"), device="auto").model.device.type == "cpu"
    message = refusal(tiny_model("gpt2"), device="cuda")
    assert "DEVICE=cuda" in message
    assert "Use DEVICE=auto or cpu" in message


@pytest.mark.parametrize("max_model_len", [2, CONTEXT])
def test_the_context_can_be_made_shorter(tiny_model, max_model_len):
    assert load(tiny_model("gpt2"), max_model_len=max_model_len).max_model_len == max_model_len


@pytest.mark.parametrize(("eos", "expected"), [(7, [7]), ([7, 0], [7, 0])])
def test_end_tokens_come_from_the_generation_config(model, eos, expected):
    edit_json(model / "generation_config.json", eos_token_id=eos)
    assert load(model).eos_token_ids == expected


@pytest.mark.parametrize("eos_token", ["<|user|>", None])
def test_end_tokens_come_from_the_tokenizer_if_the_model_names_none(model, eos_token):
    (model / "generation_config.json").unlink()
    edit_json(model / "config.json", eos_token_id=None)
    edit_json(model / "tokenizer_config.json", eos_token=eos_token)
    assert load(model).eos_token_ids == ([1] if eos_token else [])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_special_tokens_in_a_text_are_plain_text(tiny_model, architecture):
    tokenizer = load(tiny_model(architecture)).tokenizer
    text = "a<|endoftext|>b<|user|>"
    token_ids = tokenizer.encode_batch([text])[0].ids
    assert not {0, 1} & set(token_ids)
    assert tokenizer.decode(token_ids, skip_special_tokens=False) == text


def test_a_long_text_is_neither_cut_nor_padded(model):
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    cut = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    pad = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None}
    pad |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    (model / "tokenizer.json").write_text(
        json.dumps(tokenizer | {"truncation": cut, "padding": pad})
    )
    encode_batch = load(model).tokenizer.encode_batch
    assert [len(encoding.ids) for encoding in encode_batch(["xyzxyzxyz", "x"])] == [9, 1]


def test_code_that_comes_with_a_model_runs_when_it_is_trusted(model, monkeypatch, tmp_path):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    write_own_code(model)
    assert type(load(model, trust_remote_code=True).model).__name__ == "OwnModel"


# Models that are refused.


def test_code_that_comes_with_a_model_does_not_run_unasked(model):
    write_own_code(model)
    message = refusal_with_remedy(model)
    assert "TRUST_REMOTE_CODE=true" in message
    assert "OwnModel" in message
    assert not (model / "it-ran").exists()


def test_a_model_with_code_of_its_own_is_not_run_as_the_kind_it_is_derived_from(model):
    write_own_code(model)
    edit_json(model / "config.json", model_type="gpt2")
    assert "TRUST_REMOTE_CODE=true" in refusal_with_remedy(model)


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert "it has no config.json" in refusal_with_remedy(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"model_type": "gpt2', "cannot be read as JSON (JSONDecodeError"),
        (b"\xff\xfe\x00", "cannot be read as JSON (UnicodeDecodeError"),
        (b"", "cannot be read as JSON"),
        (b'["gpt2"]', "holds no JSON object"),
    ],
)
def test_broken_json_is_refused(model, file, content, reason):
    (model / file).write_bytes(content)
    message = refusal_with_remedy(model)
    assert f"{model / file} {reason}" in message
    assert "Fetch or write it again" in message


@pytest.mark.parametrize("values", [{"n_embd": "many"}, {"dtype": "float99"}])
def test_an_invalid_config_is_refused(model, values):
    edit_json(model / "config.json", **values)
    message = refusal_with_remedy(model)
    assert f"{model / 'config.json'} cannot be used" in message
    assert str(*values.values()) in message


@pytest.mark.parametrize("model_type", ["newer-than-this", None, ["gpt2"]])
def test_an_unknown_kind_of_model_is_refused(model, model_type):
    edit_json(model / "config.json", model_type=model_type)
    message = refusal_with_remedy(model)
    assert f"of type {model_type} " in message
    assert f"transformers {transformers.__version__} does not know" in message
    assert "TRUST_REMOTE_CODE" not in message  # it has no code


@pytest.mark.parametrize(
    ("model_type", "architectures", "named"),
    [
        ("bert", ["BertForMaskedLM"], "is BertForMaskedLM"),
        ("t5", ["T5ForConditionalGeneration"], "is T5ForConditionalGeneration"),
        # Tokens of its prompt see the tokens after them.
        (
            "paligemma",
            ["PaliGemmaForConditionalGeneration"],
            "is PaliGemmaForConditionalGeneration",
        ),
        ("gpt2", ["GPT2ForSequenceClassification"], "is GPT2ForSequenceClassification"),
        ("gpt2", None, "of no named architecture"),
        ("gpt2", "GPT2LMHeadModel", "of no named architecture"),
    ],
)
def test_a_model_that_cannot_continue_a_text_is_refused(tmp_path, model_type, architectures, named):
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", architectures=architectures)
    message = refusal_with_remedy(tmp_path)
    assert named in message
    assert "no causal language model" in message
    assert "ForCausalLM or LMHeadModel" in message


def test_pickled_weights_are_refused(model):
    (model / WEIGHTS).rename(model / "pytorch_model.bin")
    message = refusal_with_remedy(model)
    assert "no weights in safetensors form" in message
    assert "save_pretrained" in message


@pytest.mark.parametrize("content", ["half", "zeros", "nothing", "another file's"])
def test_corrupt_weights_are_refused(model, content):
    whole = (model / WEIGHTS).read_bytes()
    broken = {
        "half": whole[: len(whole) // 2],
        "zeros": bytes(len(whole)),
        "nothing": b"",
        "another file's": b"version https://git-lfs.github.com/spec/v1\n",
    }
    (model / WEIGHTS).write_bytes(broken[content])
    message = refusal_with_remedy(model)
    assert f"The weights in {model} cannot be loaded (SafetensorError" in message
    assert "Fetch or write the files again" in message


def test_a_missing_file_of_several_is_refused(model, tiny_model):
    (model / WEIGHTS).unlink()
    whole = AutoModelForCausalLM.from_pretrained(tiny_model("gpt2"))
    whole.save_pretrained(model, max_shard_size="40KB")
    missing = sorted(model.glob("*.safetensors"))[1]
    missing.unlink()
    assert missing.name in refusal_with_remedy(model)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("how", ["missing", "of another shape"])
def test_missing_and_mismatched_weights_are_refused(tiny_model, tmp_path, architecture, how):
    folder = Path(shutil.copytree(tiny_model(architecture), tmp_path / "model"))
    name = min(load_file(folder / WEIGHTS))
    if how == "missing":
        edit_weights(folder, drop=(name,))
    else:
        edit_weights(folder, **{name: torch.zeros(3, 5)})
    message = refusal_with_remedy(folder)
    assert message.startswith("1 of the weights")
    assert name in message


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
        ({"quant_method": "awq"}, "AWQ"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "fp8"}, "FP8"),
        ({"quant_method": "mxfp4"}, "MXFP4"),
        ({"quant_method": "newer-than-this"}, "newer-than-this"),
        ({}, "quantization_config"),
    ],
)
@pytest.mark.parametrize("is_nested", [False, True])
def test_quantized_checkpoints_are_refused_by_format(model, entries, named, is_nested):
    (model / WEIGHTS).unlink()  # nothing is loaded before the refusal
    config = {"quantization_config": entries}
    edit_json(model / "config.json", **({"text_config": config} if is_nested else config))
    message = refusal_with_remedy(model)
    assert f"quantized in the format {named} " in message
    assert "is not served yet" in message
    assert "the unquantized checkpoint or a GGUF file of it, with QUANTIZATION=int8" in message


def test_code_that_needs_another_package_is_refused(model, monkeypatch, tmp_path):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    edit_json(model / "config.json", auto_map={"AutoModelForCausalLM": "own.OwnModel"})
    (model / "own.py").write_text("import surely_missing\nclass OwnModel: pass\n")
    message = refusal_with_remedy(model, trust_remote_code=True)
    assert "needs a package that is not installed here" in message
    assert "surely_missing" in message


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_missing_tokenizer_is_refused(tiny_model, tmp_path, architecture):
    folder = Path(shutil.copytree(tiny_model(architecture), tmp_path / "model"))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    message = refusal_with_remedy(folder)
    assert "tokenizer" in message
    assert "The folder needs tokenizer.json" in message


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_broken_tokenizer_is_refused(model, content):
    (model / "tokenizer.json").write_text(content)
    message = refusal_with_remedy(model)
    assert f"The tokenizer in {model} cannot be loaded" in message
    assert "fetch or write it again" in message


def test_a_tokenizer_of_a_larger_model_is_refused(model, tmp_path):
    larger = json.loads((model / "tokenizer.json").read_text())
    vocabulary = larger["model"]["vocab"]
    for i in range(VOCAB_SIZE):
        vocabulary.setdefault(f"extra{i}", len(vocabulary))
    (model / "tokenizer.json").write_text(json.dumps(larger))
    message = refusal_with_remedy(model)
    assert f"ids up to {len(vocabulary) - 1}, and the model's end at {VOCAB_SIZE - 1}" in message
    assert "do not belong together" in message


def test_a_context_that_the_model_does_not_have_is_refused(tiny_model):
    message = refusal(tiny_model("gpt2"), max_model_len=CONTEXT + 1)
    assert f"MAX_MODEL_LEN={CONTEXT + 1}" in message
    assert f"the model's context of {CONTEXT} tokens" in message


def test_a_model_without_a_context_length_needs_max_model_len(tmp_path):
    config = AutoConfig.for_model("bloom", vocab_size=VOCAB_SIZE, hidden_size=32, n_layer=1)
    config.n_head = 4
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    create_model_folder(tmp_path / "other")
    for path in (tmp_path / "other").glob("tokenizer*"):
        shutil.copy(path, tmp_path)
    assert "Set MAX_MODEL_LEN" in refusal(tmp_path)
    assert load(tmp_path, max_model_len=64).max_model_len == 64


def test_a_bad_context_is_refused_before_the_weights_are_read(model):
    (model / WEIGHTS).unlink()
    assert "MAX_MODEL_LEN" in refusal(model, max_model_len=CONTEXT + 1)


def test_models_do_not_look_for_padding(model, caplog):
    """transformers would look for padding in each step, and warn of it once in a process."""
    transformers.utils.logging.warning_once.cache_clear()
    edit_json(model / "config.json", pad_token_id=0)
    loaded = load(model)
    loaded.model(input_ids=torch.zeros((1, 1), dtype=torch.long), use_cache=False)
    assert "attention_mask" not in caplog.text


@pytest.mark.parametrize(("own", "theirs"), [("ERROR", "ERROR"), ("DEBUG", "WARNING")])
def test_transformers_logs_no_more_than_this_project(model, caplog, own, theirs):
    caplog.set_level(own)
    load(model)
    assert logging.getLevelName(logging.getLogger("transformers").getEffectiveLevel()) == theirs
