"""The model's tokens as llguidance reads them, and rows of bits that stand for some of them."""

import json
import uuid
from collections.abc import Iterable

import numpy as np
from llguidance import LLExecutor, LLTokenizer
from numpy.typing import NDArray
from tokenizers import Tokenizer


class UnreadableTokenizerError(Exception):
    """llguidance cannot read this tokenizer; the message says why."""


class Vocabulary:
    """A model's tokens, and the threads that find out which of them may come next.

    Args:
        tokenizer: the model's.
        vocab_size: the model's, which may be larger than the tokenizer's.

    Raises:
        UnreadableTokenizerError: it is of a kind that llguidance does not know.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.executor = LLExecutor()
        end = max(tokenizer.get_vocab().values()) + 1
        try:
            self.tokens = LLTokenizer(
                _without_spellings(tokenizer, end), n_vocab=vocab_size + 1, eos_token=[end]
            )
        except BaseException as error:  # a panic in the library is no Exception
            raise UnreadableTokenizerError(str(error)) from error
        self.num_bytes = 4 * -(-self.tokens.vocab_size // 32)  # whole words of 32 bits
        added = tokenizer.get_added_tokens_decoder()
        self.special = self.bits([end, *(one for one, token in added.items() if token.special)])

    def bits(self, token_ids: Iterable[int]) -> NDArray[np.uint8]:
        """Returns a row in which these tokens' bits are set: (num_bytes,)."""
        row = np.zeros(8 * self.num_bytes, dtype=np.uint8)
        row[list(token_ids)] = 1
        return np.packbits(row, bitorder="little")


def _without_spellings(tokenizer: Tokenizer, end: int) -> str:
    """The tokenizer's description, in which special tokens have names that nobody can spell.

    Else llguidance would take a text that spells one for the token. It also wants a token that
    ends texts, and gets one that the tokenizer has not: the ends are ours to allow.
    """
    secret = uuid.uuid4().hex
    described = json.loads(tokenizer.to_str())
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
