"""TokenBytes: bytes of single tokens."""

import pytest
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from src.text.token_bytes import TokenBytes
from tests.support.servers import ROOT
from tests.support.tiny_models import END, create_tokenizer


def bundled() -> Tokenizer:
    return Tokenizer.from_file(str(ROOT / "src" / "bundled" / "storyteller" / "tokenizer.json"))


@pytest.mark.parametrize("tokenizer", [bundled(), create_tokenizer().backend_tokenizer])
@pytest.mark.parametrize("text", ["The capital of France", "Grüße 👩‍🚀 日本\n\t", "naïve €5"])
def test_bytes_of_tokens_add_up_to_the_text(tokenizer, text):
    tokenizer.encode_special_tokens = True
    token_bytes = TokenBytes(tokenizer)
    token_ids = tokenizer.encode(text).ids
    assert b"".join(token_bytes.get(token_id).data for token_id in token_ids).decode() == text


def test_every_token_has_bytes_and_only_special_ones_are_special():
    tokenizer = bundled()
    token_bytes = TokenBytes(tokenizer)
    tokens = [token_bytes.get(token_id) for token_id in range(tokenizer.get_vocab_size())]
    special = [token_id for token_id, token in enumerate(tokens) if token.is_special]
    assert special == [0, 1, 2, 3, 4]
    assert token_bytes.special_token_ids == set(special)
    assert tokens[0].text == END
    assert all(token.data for token in tokens)


def test_a_partial_character_has_no_text():
    tokenizer = create_tokenizer().backend_tokenizer
    tokens = [TokenBytes(tokenizer).get(token_id) for token_id in tokenizer.encode("€").ids]
    assert [token.text for token in tokens] == [None] * 3


def test_ids_beyond_the_vocabulary_have_no_bytes():
    assert TokenBytes(create_tokenizer().backend_tokenizer).get(10**6).data == b""


def test_tokens_of_sentencepiece_vocabularies():
    vocab = {"<0xE2>": 0, "▁the": 1, "cat": 2}
    tokenizer = Tokenizer(BPE(vocab, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    token_bytes = TokenBytes(tokenizer)
    assert [token_bytes.get(token_id).data for token_id in range(3)] == [b"\xe2", b" the", b"cat"]
