"""What single tokens are made of."""

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
def test_bytes_of_tokens_make_up_the_text(tokenizer, text):
    tokenizer.encode_special_tokens = True
    texts = TokenBytes(tokenizer)
    token_ids = tokenizer.encode(text).ids
    assert b"".join(texts.get(one).data for one in token_ids).decode() == text


def test_every_token_has_bytes_and_only_special_ones_are_special():
    tokenizer = bundled()
    texts = TokenBytes(tokenizer)
    special = [one for one in range(tokenizer.get_vocab_size()) if texts.get(one).is_special]
    assert special == [0, 1, 2, 3, 4]
    assert texts.get(0).text == END
    assert all(texts.get(one).data for one in range(tokenizer.get_vocab_size()))


def test_a_piece_of_a_character_has_no_text():
    tokenizer = create_tokenizer().backend_tokenizer
    texts = [TokenBytes(tokenizer).get(one) for one in tokenizer.encode("€").ids]
    assert [one.text for one in texts] == [None] * 3


def test_ids_beyond_the_tokenizer_add_nothing():
    assert TokenBytes(create_tokenizer().backend_tokenizer).get(10**6).data == b""


def test_vocabularies_in_the_way_of_sentencepiece():
    vocab = {"<0xE2>": 0, "▁the": 1, "cat": 2}
    tokenizer = Tokenizer(BPE(vocab, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    texts = TokenBytes(tokenizer)
    assert [texts.get(one).data for one in range(3)] == [b"\xe2", b" the", b"cat"]
