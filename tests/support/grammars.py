"""Helpers for tests of grammars that are compiled in real processes."""

import numpy as np
from tokenizers import Tokenizer

from src.engine.structured_output.fork_server import ForkServer
from src.engine.structured_output.matcher import (
    Grammar,
    Matcher,
    find_allowed,
    send,
    wait_for_answers,
)
from src.engine.structured_output.source import GrammarSource
from src.engine.structured_output.vocabulary import Vocabulary


class Grammars:
    """Compiles the grammars of one tokenizer.

    Args:
        tokenizer: tokenizer of the model.
        vocab_size: size of the model's vocabulary.
        timeout_seconds: time limit of each answer of a process.
        max_memory_bytes: memory limit of all processes.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        *,
        timeout_seconds: float = 60,
        max_memory_bytes: int = 2**30,
    ) -> None:
        self.vocabulary = Vocabulary(tokenizer.to_str(), vocab_size)
        self.server = ForkServer(tokenizer.to_str(), vocab_size, max_memory_bytes)
        self.layout = self.server.layout
        self._timeout_seconds = timeout_seconds

    def compile(self, source: GrammarSource) -> Grammar:
        process = self.server.fork()
        process.compile(source, self._timeout_seconds)
        return Grammar(process, self.layout, source.special_token_ids)

    def decode(self, token_id: int) -> bytes:
        return self.vocabulary.tokens.decode_bytes([token_id])


def allowed_by(matcher: Matcher, *, is_early: bool = False) -> list[int]:
    """Returns the allowed next token ids; raises DeadEndError if there are none."""
    masks, _ = find_allowed([matcher], [is_early], timeout=None)
    matcher.check()
    return np.unpackbits(masks[0], bitorder="little").nonzero()[0].tolist()


def take(matcher: Matcher, *token_ids: int) -> None:
    """Advances a matcher by tokens; raises DeadEndError if the grammar does not allow them."""
    send([(matcher, list(token_ids))])
    wait_for_answers([matcher], timeout=None)
    matcher.check()
