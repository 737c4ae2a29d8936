"""Tokenizers of GGUF files: the tokens of the original, special tokens, and refusals."""

from pathlib import Path

import pytest
from tokenizers import pre_tokenizers

from src.engine.config import EngineConfig
from src.engine.model.loader import LoadedModel, load_model
from src.errors import ModelLoadError
from src.text.chat_template import ChatMessage
from tests.support.gguf_files import create_model, write_gguf
from tests.support.tiny_models import SPACE, VOCAB_SIZE, create_tokenizer

TEXTS = ["", "the cat sat", "Caf\N{LATIN SMALL LETTER E WITH ACUTE} 2024!  \n\n x", "<|user|>the"]
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def load(tmp_path: Path, **changes: object) -> LoadedModel:
    path = write_gguf(
        tmp_path / "model.gguf",
        create_model("llama"),
        "llama",
        changes={f"tokenizer.{name}": value for name, value in changes.items()},
    )
    return load_model(EngineConfig(str(path), device="cpu"))


def refusal(tmp_path: Path, **changes: object) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(tmp_path, **changes)
    assert str(tmp_path / "model.gguf") in str(caught.value)
    assert str(caught.value).endswith("which needs no download.")
    return str(caught.value)


def sentencepiece(**changes: object) -> dict[str, object]:
    """Returns metadata of a tokenizer like SentencePiece's, with scores instead of merges."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = [SPACE, *"abcdehst", "th", "the", f"{SPACE}the"]
    scores = [*[0.0] * len(tokens), *(-float(number) for number in range(len(pieces)))]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(pieces)]
    found = {"tokens": tokens + pieces, "scores": scores, "token_type": types, "model": "llama"}
    found |= {"merges": None, "pre": None, "bos_token_id": 1, "eos_token_id": 2} | changes
    return {f"ggml.{name}": value for name, value in found.items()}


def test_tokens_are_those_of_the_original(tmp_path):
    tokenizer, original = load(tmp_path).tokenizer, create_tokenizer().backend_tokenizer
    original.encode_special_tokens = True
    for text in TEXTS:
        token_ids = original.encode(text).ids
        assert tokenizer.encode(text).ids == token_ids
        assert tokenizer.decode(token_ids) == original.decode(token_ids)
    assert tokenizer.get_vocab() == original.get_vocab()


def test_some_models_split_digits_first(tmp_path):
    pieces = load(tmp_path, **{"ggml.pre": "smollm"}).tokenizer.pre_tokenizer.pre_tokenize_str(
        "in 2024"
    )
    digits = pre_tokenizers.Digits(individual_digits=True)
    rest = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert pieces == pre_tokenizers.Sequence([digits, rest]).pre_tokenize_str("in 2024")
    assert [piece for piece, _ in pieces][-4:] == [*"2024"]


def test_llama_3_takes_a_piece_that_is_a_token_and_adds_bos(tmp_path):
    vocabulary = create_tokenizer().get_vocab()
    tokens = [*sorted(vocabulary, key=vocabulary.__getitem__), "zzz"]
    changes = {"ggml.pre": "llama-bpe", "ggml.tokens": tokens, "ggml.bos_token_id": 0}
    encode = load(tmp_path, **changes | {"ggml.merges": ["h e"]}).tokenizer.encode
    assert encode("zzz").tokens == ["<|endoftext|>", "zzz"]


@pytest.mark.parametrize("adds_bos", [None, False, True])
def test_the_file_says_whether_bos_is_added(tmp_path, adds_bos):
    changes = {"ggml.bos_token_id": 1, "ggml.add_bos_token": adds_bos}
    assert load(tmp_path, **changes).tokenizer.encode("the").ids[:1] == (
        [1] if adds_bos else create_tokenizer().encode("the")[:1]
    )


def test_sentencepiece_merges_by_scores_and_adds_bos_and_a_space(tmp_path):
    tokenizer = load(tmp_path, **sentencepiece()).tokenizer
    assert tokenizer.encode("the \N{SNOWMAN}").tokens == (
        ["<s>", f"{SPACE}the", SPACE, "<0xE2>", "<0x98>", "<0x83>"]
    )
    assert tokenizer.decode(tokenizer.encode("the \N{SNOWMAN}").ids) == "the \N{SNOWMAN}"


def test_sentencepiece_adds_no_space_if_the_file_says_so(tmp_path):
    changes = sentencepiece(add_space_prefix=False, add_bos_token=False)
    tokenizer = load(tmp_path, **changes).tokenizer
    assert tokenizer.encode("the the").tokens == ["the", f"{SPACE}the"]
    assert tokenizer.decode(tokenizer.encode(" the").ids) == " the"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({"eos_token_id": 0}, [0]),
        ({"eos_token_id": 0, "eot_token_id": 1}, [0, 1]),
        ({"eos_token_id": 1, "eot_token_id": 1, "eom_token_id": 0}, [1, 0]),
        ({"eos_token_id": None}, []),
        ({"eos_token_id": None, "eot_token_id": 1}, [1]),
    ],
)
def test_end_tokens_come_from_the_file(tmp_path, ids, expected):
    changes = {f"ggml.{name}": value for name, value in ids.items()}
    assert load(tmp_path, **changes).eos_token_ids == expected


def test_the_chat_template_comes_from_the_file(tmp_path):
    template = "{% for message in messages %}{{ message.content + eos_token }}{% endfor %}"
    loaded = load(tmp_path, chat_template=template)
    assert loaded.chat_template.render([ChatMessage("user", "hi")]) == "hi<|endoftext|>"
    assert load(tmp_path).chat_template is None


def test_an_unknown_way_of_splitting_is_refused_with_those_known(tmp_path):
    message = refusal(tmp_path, **{"ggml.pre": "poro-chat"})
    assert "splits texts by the rules poro-chat (tokenizer.ggml.pre)" in message
    assert "gpt-2, " in message
    assert "rules None" in refusal(tmp_path, **{"ggml.pre": None})


@pytest.mark.parametrize("kind", ["bert", "rwkv", None])
def test_an_unknown_kind_of_tokenizer_is_refused(tmp_path, kind):
    message = refusal(tmp_path, **{"ggml.model": kind})
    assert f"tokenizer of the kind {kind}" in message


@pytest.mark.parametrize("changes", [{"tokens": None}, {"merges": ["x"]}, {"bos_token_id": 9999}])
def test_a_broken_tokenizer_is_refused(tmp_path, changes):
    message = refusal(tmp_path, **{f"ggml.{name}": value for name, value in changes.items()})
    assert "The tokenizer in " in message
    assert "cannot be loaded" in message


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path):
    tokens = ["0", "#", *(f"{number}#" for number in range(VOCAB_SIZE - 1))]  # one too many
    message = refusal(
        tmp_path, **{"ggml.tokens": tokens, "ggml.merges": ["0 #"], "ggml.token_type": None}
    )
    assert f"ids up to {VOCAB_SIZE}, and the model's end at {VOCAB_SIZE - 1}" in message
