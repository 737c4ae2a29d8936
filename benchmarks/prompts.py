"""Prompts of given lengths, and jobs made of them.

No two have a common prefix, so no prefix cache is hit by accident.
"""

import itertools
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from benchmarks.workload import Job, Request
from training.documents import write_document

LENGTHS = (16, 32, 64, 128)
MIN_REQUESTS = 4
"""Smallest number of requests of a job: the median of one request says little."""


class Prompts:
    """An endless supply of prompts, the same for the same seed.

    Args:
        model: folder of the tokenizer that counts the tokens.
        seed: seed of the first prompt.
    """

    def __init__(self, model: Path, seed: int = 0) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._random = Random(seed)  # noqa: S311 - the same prompts each time

    def take(self, num_tokens: int) -> str:
        """Creates a prompt with a unique beginning: a random number, then text."""
        while True:
            text = f"{self._random.getrandbits(64):x} {self._text(num_tokens)}"
            text = self._tokenizer.decode(self._encode(text)[:num_tokens])
            # A cut within a word may be tokenized differently.
            if len(self._encode(text)) == num_tokens:
                return text

    def job(
        self, concurrency: int, max_tokens: int, temperature: float = 0, top_p: float = 1
    ) -> Job:
        """Creates a job of concurrent requests, with prompts of mixed lengths."""
        lengths = itertools.islice(itertools.cycle(LENGTHS), max(concurrency, MIN_REQUESTS))
        prompts = [self.take(length) for length in lengths]
        requests = [Request(prompt, max_tokens, temperature, top_p) for prompt in prompts]
        return Job(requests, concurrency)

    def _text(self, num_tokens: int) -> str:
        """Returns documents of at least this many tokens together."""
        text = ""
        while len(self._encode(text)) < num_tokens:
            text += write_document(self._random) + "\n"
        return text

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids
