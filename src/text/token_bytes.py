"""Bytes of single tokens, which need not be whole characters."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""Name of a single-byte token in SentencePiece vocabularies."""


@dataclass(frozen=True, slots=True)
class TokenText:
    """Bytes that a token adds to a text.

    Args:
        data: the bytes; for a special token those of its name.
        is_special: the token is no part of the text.
    """

    data: bytes
    is_special: bool

    @property
    def text(self) -> str | None:
        """The bytes as characters; None if some are partial."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            return None


class TokenBytes:
    """Looks up the bytes of tokens, and caches them.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        # The decoder is ByteLevel, or a sequence with ByteLevel in it.
        self._is_byte_level = "ByteLevel" in repr(tokenizer.decoder)
        self._added = tokenizer.get_added_tokens_decoder()
        self._cache: dict[int, TokenText] = {}

    @cached_property
    def special_token_ids(self) -> frozenset[int]:
        """Ids of all special tokens."""
        return frozenset(token_id for token_id, token in self._added.items() if token.special)

    def get(self, token_id: int) -> TokenText:
        """Returns the bytes of a token; none for an id that the tokenizer does not have."""
        token_text = self._cache.get(token_id)
        if token_text is None:
            token_text = self._cache[token_id] = self._look_up(token_id)
        return token_text

    def _look_up(self, token_id: int) -> TokenText:
        added = self._added.get(token_id)
        if added is not None:
            return TokenText(added.content.encode(), added.special)
        return TokenText(self._bytes(self._tokenizer.id_to_token(token_id) or ""), False)

    def _bytes(self, name: str) -> bytes:
        if self._is_byte_level and BYTES.keys() >= set(name):
            return bytes(BYTES[character] for character in name)
        if match := BYTE_TOKEN.fullmatch(name):
            return bytes.fromhex(match[1])
        return name.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()  # SentencePiece's space


def _byte_level_alphabet() -> dict[str, int]:
    """Returns GPT-2's alphabet of byte-level BPE: a printable character for each byte.

    Source: `bytes_to_unicode` in the code of Radford et al. 2019.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTES = _byte_level_alphabet()
