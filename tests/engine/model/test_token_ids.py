"""Token ids in a model's files are in range, or the model is refused, or they are ignored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from src.engine.config import EngineConfig
from src.engine.model.loader import LoadedModel, load_model
from src.engine.model.token_ids import find_vocab_size, read_named_ids
from src.errors import ModelLoadError
from src.main import create_app
from tests.conftest import create_settings
from tests.support.servers import serve_app
from tests.support.tiny_models import VOCAB_SIZE

REMEDY = "MODEL_NAME=storyteller runs the bundled model, which needs no download."
NOT_IDS = [True, "0", 1.0, [[0]], [0, None], {"id": 0}]
OUT_OF_RANGE = [VOCAB_SIZE, 99_999, -1, 2**70]


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))


def load(folder: Path) -> LoadedModel:
    return load_model(EngineConfig(str(folder), device="cpu"))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(folder)
    assert str(caught.value).endswith(REMEDY)
    return str(caught.value)


def edit(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def name_id(path: Path, name: str, value: object) -> None:
    edit(path, lambda content: content.update({name: value}))


@pytest.mark.parametrize("name", ["eos_token_id", "pad_token_id", "forced_bos_token_id"])
@pytest.mark.parametrize("value", NOT_IDS)
def test_an_invalid_token_id_is_refused_with_its_file(model, name, value):
    name_id(model / "generation_config.json", name, value)
    message = refusal(model)
    assert f"{model / 'generation_config.json'} has {name}={value!r}" in message
    assert "these are integers" in message


@pytest.mark.parametrize("value", NOT_IDS)
def test_an_invalid_token_id_in_the_config_is_refused_with_its_file(model, value):
    name_id(model / "config.json", "eos_token_id", value)
    message = refusal(model)
    assert str(model / "config.json") in message
    assert "eos_token_id" in message


@pytest.mark.parametrize("value", OUT_OF_RANGE)
def test_an_end_id_that_the_vocabulary_lacks_is_ignored_with_a_warning(model, caplog, value):
    name_id(model / "generation_config.json", "eos_token_id", [7, value])
    assert load(model).eos_token_ids == [7]
    assert f"generation_config.json has eos_token_id={value}, " in caplog.text
    assert f"ids are 0 to {VOCAB_SIZE - 1}: it is ignored" in caplog.text


@pytest.mark.parametrize("value", OUT_OF_RANGE)
def test_without_a_usable_end_id_the_tokenizers_is_used(model, value):
    name_id(model / "generation_config.json", "eos_token_id", value)
    assert load(model).eos_token_ids == [0]


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "name", ["bos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id"]
)
@pytest.mark.parametrize("value", OUT_OF_RANGE)
def test_an_unused_id_out_of_range_is_ignored_with_a_warning(model, caplog, file, name, value):
    name_id(model / file, name, value)
    loaded = load(model)
    assert loaded.eos_token_ids == [0]
    assert loaded.vocab_size == VOCAB_SIZE
    assert f"{file} has {name}={value}, " in caplog.text


def test_ids_in_the_config_of_a_models_text_part_are_checked(tmp_path):
    (tmp_path / "config.json").write_text('{"text_config": {"eos_token_id": "0"}}')
    with pytest.raises(ModelLoadError, match="eos_token_id='0'"):
        read_named_ids(tmp_path)


def test_ids_in_range_cause_no_warning(model, caplog):
    name_id(model / "generation_config.json", "eos_token_id", [7, 0, 7])
    assert load(model).eos_token_ids == [7, 0]
    assert "token_id" not in caplog.text


def write_tokenizer(folder: Path, change: Callable[[dict], None]) -> None:
    """Changes tokenizer.json, and removes other files that could name tokens."""
    edit(folder / "tokenizer.json", change)


def test_a_tokenizer_with_gaps_is_measured_by_its_highest_id(model):
    def move_last(content: dict) -> None:
        vocabulary = content["model"]["vocab"]
        assert len(vocabulary) < VOCAB_SIZE
        vocabulary["zz"] = VOCAB_SIZE

    write_tokenizer(model, move_last)
    message = refusal(model)
    assert f"token ids up to {VOCAB_SIZE}, and the model's end at {VOCAB_SIZE - 1}" in message
    assert "they do not belong together" in message


def test_a_tokenizer_with_gaps_within_the_vocabulary_loads(model):
    def move_last(content: dict) -> None:
        content["model"]["vocab"]["zz"] = VOCAB_SIZE - 1

    write_tokenizer(model, move_last)
    assert load(model).vocab_size == VOCAB_SIZE


def test_an_added_token_beyond_the_embeddings_is_refused(model):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    tokenizer.add_tokens([f"added {number}" for number in range(VOCAB_SIZE)])
    tokenizer.save_pretrained(model)
    assert "they do not belong together" in refusal(model)


def test_a_special_token_that_has_no_embedding_is_refused(model):
    def fill(content: dict) -> None:
        vocabulary = content["model"]["vocab"]
        for number in range(len(vocabulary), VOCAB_SIZE):
            vocabulary[f"filler {number}"] = number

    write_tokenizer(model, fill)
    assert load(model).vocab_size == VOCAB_SIZE
    name_id(model / "tokenizer_config.json", "pad_token", "<pad>")  # gets the next id
    assert f"token ids up to {VOCAB_SIZE}" in refusal(model)


def test_an_id_of_the_post_processor_beyond_the_embeddings_is_refused(model):
    def begin_with(content: dict) -> None:
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [99_999], "tokens": ["<s>"]}},
        }

    write_tokenizer(model, begin_with)
    assert "token ids up to 99999" in refusal(model)


def test_logits_for_more_tokens_than_embeddings_are_refused(model):
    loaded = load(model)
    loaded.model.lm_head = torch.nn.Linear(32, VOCAB_SIZE + 1)
    with pytest.raises(ModelLoadError, match=f"logits for {VOCAB_SIZE + 1} tokens .* {VOCAB_SIZE}"):
        find_vocab_size(loaded.model, model)


def test_ids_without_logits_are_not_in_the_vocabulary(model):
    loaded = load(model)
    loaded.model.lm_head = torch.nn.Linear(32, VOCAB_SIZE - 8)
    assert find_vocab_size(loaded.model, model) == VOCAB_SIZE - 8


def test_structured_answers_come_from_a_model_with_an_end_id_out_of_range(model):
    name_id(model / "generation_config.json", "eos_token_id", [0, 99_999])
    with serve_app(create_app(create_settings(model_name=str(model)))) as server:
        for structured in ({"structured_outputs": {"choice": ["yes", "no"]}}, {}):
            answer = server.post({"prompt": "the", "max_length": 8} | structured)
            assert answer.status_code == 200, answer.text
        assert server.get("/health/live").status_code == 200
