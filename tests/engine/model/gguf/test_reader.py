"""GGUF files: values of tensors, split files, and refusals of broken and unknown ones."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as TensorFormat

from src.engine.config import EngineConfig
from src.engine.model.gguf.reader import read_gguf
from src.engine.model.loader import load_model
from src.errors import ModelLoadError
from tests.support.gguf_files import create_model, tensors_of, write_gguf

REMEDY = "MODEL_NAME=storyteller runs the bundled model, which needs no download."


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """Returns the content of a valid file."""
    path = tmp_path_factory.mktemp("whole") / "model.gguf"
    return write_gguf(path, create_model("llama"), "llama").read_bytes()


def refusal(path: Path) -> str:
    """Returns why the model in a file is refused, in one paragraph that names the file."""
    with pytest.raises(ModelLoadError) as caught:
        load_model(EngineConfig(str(path), device="cpu"))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert message.endswith(REMEDY)
    return message


def refusal_of(content: bytes, tmp_path: Path) -> str:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return refusal(path)


def with_format(content: bytes, number: int) -> bytes:
    """Returns a file with another format of its first matrix, blk.0.attn_q.weight."""
    name = b"blk.0.attn_q.weight"
    place = content.index(name) + len(name) + 4 + 2 * 8
    return content[:place] + struct.pack("<I", number) + content[place + 4 :]


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_reads_the_values_of_each_format(tmp_path, name):
    model, stored = create_model("llama"), TensorFormat[name]
    file = read_gguf(write_gguf(tmp_path / "model.gguf", model, "llama", stored))
    written = tensors_of(model, "llama")
    assert written.keys() == file.tensors.keys()
    for key, weight in written.items():
        kept = stored if weight.ndim > 1 else TensorFormat.F32
        expected = gguf.dequantize(gguf.quantize(weight, kept), kept)
        assert torch.equal(file.tensors[key].read().float(), torch.from_numpy(expected)), key


def test_floats_are_not_copied(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", create_model("llama"), "llama")
    tensor = read_gguf(path).tensors["token_embd.weight"]
    assert tensor.read().data_ptr() == tensor.read().data_ptr()


def test_reads_metadata_of_all_types(tmp_path):
    values = {"a.none": 7, "a.text": "\N{GRINNING FACE}", "a.flag": False, "a.ids": [-1, 2]}
    values |= {"a.number": 0.5, "a.names": ["", "x"]}
    path = write_gguf(tmp_path / "model.gguf", create_model("llama"), "llama", changes=values)
    metadata = read_gguf(path).metadata
    assert {key: metadata[key] for key in values} == values
    assert metadata["general.architecture"] == "llama"


def test_a_split_model_is_loaded_by_any_of_its_files(tmp_path):
    model = create_model("llama")
    write_gguf(tmp_path / "model-00001-of-00003.gguf", model, "llama")
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 3
    for path in (*paths, tmp_path):
        state = load_model(EngineConfig(str(path), device="cpu")).model.state_dict()
        assert all(torch.equal(state[name], one) for name, one in model.state_dict().items())


def test_a_missing_file_of_a_split_model_is_refused(tmp_path):
    write_gguf(tmp_path / "model-00001-of-00003.gguf", create_model("llama"), "llama")
    missing = tmp_path / "model-00002-of-00003.gguf"
    missing.unlink()
    with pytest.raises(ModelLoadError, match=rf"^{missing} .*No such file"):
        read_gguf(tmp_path / "model-00001-of-00003.gguf")


def test_a_renamed_file_of_a_split_model_is_refused(tmp_path):
    write_gguf(tmp_path / "model-00001-of-00003.gguf", create_model("llama"), "llama")
    path = (tmp_path / "model-00001-of-00003.gguf").rename(tmp_path / "model.gguf")
    message = refusal(path)
    assert "one of 3 files of a split model" in message
    assert "-00001-of-00003.gguf" in message


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.2, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(whole, tmp_path, share):
    message = refusal_of(whole[: int(share * len(whole))], tmp_path)
    assert "is cut off" in message or "broken or cut off" in message
    assert "Fetch it again." in message


def test_each_cut_within_the_header_is_refused(whole, tmp_path):
    path = tmp_path / "model.gguf"
    for length in np.linspace(0, whole.index(b"blk.0.attn_q"), 60, dtype=int):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelLoadError):
            read_gguf(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is no GGUF file"),
        (b"<html>Please log in to this network</html>", "is no GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(16), "of version 1; versions 2 and 3"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "in big-endian order"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "is cut off within its header"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63), "is cut off within its header"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"a", 77), "broken or cut off"),
    ],
)
def test_other_files_are_refused(tmp_path, content, reason):
    assert reason in refusal_of(content, tmp_path)


@pytest.mark.parametrize(("number", "name"), [(24, "I8"), (9, "Q8_1"), (99, "number 99")])
def test_a_format_that_cannot_be_read_is_refused_with_the_tensor(whole, tmp_path, number, name):
    message = refusal_of(with_format(whole, number), tmp_path)
    assert f"has a tensor blk.0.attn_q.weight in the format {name}, which cannot be read" in message
    assert "another quantization, such as Q8_0" in message


def test_rows_that_are_no_whole_blocks_are_refused(whole, tmp_path):
    message = refusal_of(with_format(whole, TensorFormat.Q4_K), tmp_path)
    assert "blk.0.attn_q.weight of the shape [64, 32], which Q4_K does not allow" in message
