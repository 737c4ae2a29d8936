"""llguidance's view of the model's tokens, and the layout of token masks."""

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
    """llguidance does not support this tokenizer; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class MaskLayout:
    """Layout of a token mask: one bit per token id, the lowest bit of a byte first.

    Args:
        num_bytes: size of a mask.
        special_token_ids: tokens that only grammars that name them allow.
    """

    num_bytes: int
    special_token_ids: frozenset[int]

    def bits(self, token_ids: Iterable[int]) -> NDArray[np.uint8]:
        """Returns a mask with the bits of these tokens set, (num_bytes,)."""
        row = np.zeros(8 * self.num_bytes, dtype=np.uint8)
        row[list(token_ids)] = 1
        return np.packbits(row, bitorder="little")


class Vocabulary:
    """A model's tokens, and the threads that compute token masks.

    Args:
        description: the tokenizer's JSON, as `Tokenizer.to_str` returns it.
        vocab_size: size of the model's vocabulary; may be larger than the tokenizer's.

    Raises:
        UnreadableTokenizerError: llguidance does not support this kind of tokenizer.
    """

    def __init__(self, description: str, vocab_size: int) -> None:
        described = json.loads(description)
        added = described["added_tokens"]
        special = {token["id"] for token in added if token["special"]}
        known = {*_token_ids(described), *(token["id"] for token in added)}
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
        """Thread pool for masks; created after the fork, since threads make a fork unsafe."""
        return LLExecutor()


def _token_ids(described: Any) -> Iterable[int]:
    # A Unigram vocabulary is a list of (piece, score) in the order of the ids.
    vocab = described["model"].get("vocab", {})
    return vocab.values() if isinstance(vocab, dict) else range(len(vocab))


def _fill_holes(described: Any, holes: set[int]) -> set[int]:
    """Names the token ids that the tokenizer skips, as llguidance requires; returns these ids."""
    names = described["model"].get("vocab")
    if isinstance(names, dict):
        names |= {f"{uuid.uuid4().hex}-{hole}": hole for hole in holes}
    return holes


def _with_secret_names(described: Any, end: int) -> str:
    """Returns the tokenizer's JSON with random names for special tokens, and an end token added.

    With the real names llguidance would take text that spells a special token for the token. It
    also needs an end token; the added one is never allowed, as the engine handles end tokens.
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
