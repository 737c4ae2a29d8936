"""What single tokens are made of: bytes, which need not be whole characters."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How vocabularies made by SentencePiece name a single byte."""


@dataclass(frozen=True, slots=True)
class TokenText:
    """What a token adds to a text.

    Args:
        data: its bytes; of a special token its name's.
        is_special: it is no part of the text.
    """

    data: bytes
    is_special: bool

    @property
    def text(self) -> str | None:
        """The bytes as characters; None if they are not whole ones."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            return None


class TokenTexts:
    """Looks tokens up; each is worked out once.

    Args:
        tokenizer: whose tokens they are.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._is_byte_level = "ByteLevel" in repr(tokenizer.decoder)  # alone, or one of several
        self._added = tokenizer.get_added_tokens_decoder()
        self._known: dict[int, TokenText] = {}

    def get(self, token_id: int) -> TokenText:
        """Returns what this token adds; nothing if the tokenizer has none of that id."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._find(token_id)
        return known

    def _find(self, token_id: int) -> TokenText:
        added = self._added.get(token_id)
        if added is not None:
            return TokenText(added.content.encode(), added.special)
        return TokenText(self._bytes(self._tokenizer.id_to_token(token_id) or ""), False)

    def _bytes(self, name: str) -> bytes:
        if self._is_byte_level and BYTES.keys() >= set(name):
            return bytes(BYTES[character] for character in name)
        if found := BYTE_TOKEN.fullmatch(name):
            return bytes.fromhex(found[1])
        return name.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()  # SentencePiece's space


def _byte_level_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level vocabularies, as gpt2 brought it up."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    alphabet = {chr(byte): byte for byte in shown}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(hidden)}


BYTES = _byte_level_alphabet()
