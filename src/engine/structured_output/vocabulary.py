"""The model's tokens as llguidance reads them, and the layout of token masks."""

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLExecutor, LLTokenizer
from numpy.typing import NDArray


class UnreadableTokenizerError(Exception):
    """llguidance cannot read this tokenizer; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class MaskLayout:
    """Layout of a token mask: one bit per token id, the lowest bit of a byte first.

    Args:
        num_bytes: of a mask.
        special_token_ids: tokens that are never part of an answer unless a grammar names them.
    """

    num_bytes: int
    special_token_ids: frozenset[int]

    def bits(self, token_ids: Iterable[int]) -> NDArray[np.uint8]:
        """Returns a mask with these tokens' bits set: (num_bytes,)."""
        row = np.zeros(8 * self.num_bytes, dtype=np.uint8)
        row[list(token_ids)] = 1
        return np.packbits(row, bitorder="little")


class Vocabulary:
    """A model's tokens, and the threads that compute token masks.

    Args:
        description: the tokenizer's JSON, as `Tokenizer.to_str` writes it.
        vocab_size: the model's, which may be larger than the tokenizer's.

    Raises:
        UnreadableTokenizerError: llguidance does not know this kind of tokenizer.
    """

    def __init__(self, description: str, vocab_size: int) -> None:
        described = json.loads(description)
        special = {one["id"] for one in described["added_tokens"] if one["special"]}
        known = {*_token_ids(described), *(one["id"] for one in described["added_tokens"])}
        end = 1 + max(known)
        special |= _fill_holes(described, set(range(end)) - known)
        try:
            self.tokens = LLTokenizer(
                _with_secret_names(described, end), n_vocab=vocab_size + 1, eos_token=[end]
            )
        except BaseException as error:  # a panic in the library is not an Exception
            raise UnreadableTokenizerError(str(error)) from error
        num_bytes = 4 * -(-self.tokens.vocab_size // 32)  # whole words of 32 bits
        self.layout = MaskLayout(num_bytes, frozenset({end, *special}))

    @cached_property
    def executor(self) -> LLExecutor:
        """Threads; created late, since a process that has some cannot fork safely."""
        return LLExecutor()


def _token_ids(described: Any) -> Iterable[int]:
    # A Unigram vocabulary is a list of (piece, score) in the order of the ids.
    vocab = described["model"].get("vocab", {})
    return vocab.values() if isinstance(vocab, dict) else range(len(vocab))


def _fill_holes(described: Any, holes: set[int]) -> set[int]:
    """Gives names to ids that the tokenizer leaves out, which llguidance cannot; returns them."""
    names = described["model"].get("vocab")
    if isinstance(names, dict):
        names |= {f"{uuid.uuid4().hex}-{hole}": hole for hole in holes}
    return holes


def _with_secret_names(described: Any, end: int) -> str:
    """Returns the tokenizer's description with special tokens under names that cannot be spelled.

    Otherwise llguidance takes a text that spells one for the token. It also needs a token that
    ends texts, and gets one that the tokenizer does not have: end tokens are the engine's matter.
    """
    secret = uuid.uuid4().hex
    names = described["model"]["vocab"]
    for token in described["added_tokens"]:
        if token["special"]:
            name = f"{secret}-{token['id']}"
            if isinstance(names, dict) and token["content"] in names:
                names[name] = names.pop(token["content"])
            token["content"] = name
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    described["added_tokens"].append({"id": end, "content": secret, "special": True, **flags})
    described["post_processor"] = None  # it may name special tokens, and only adds them
    return json.dumps(described)
