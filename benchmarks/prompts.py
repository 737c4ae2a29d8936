"""Prompts of given numbers of tokens, and jobs made of them.

No two begin alike, so no system finds the beginning of one in a cache of prefixes by accident.
"""

import itertools
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from benchmarks.workload import Job, Request
from training.documents import write_document

LENGTHS = (16, 32, 64, 128)
MIN_REQUESTS = 4
"""Of a job: a median of one request alone says little."""


class Prompts:
    """An endless supply, the same for the same seed.

    Args:
        model: folder with the tokenizer that counts the tokens.
        seed: of the first prompt.
    """

    def __init__(self, model: Path, seed: int = 0) -> None:
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._random = Random(seed)  # noqa: S311 - the same prompts each time

    def take(self, num_tokens: int) -> str:
        """A prompt that no other one begins like: a random number, then text."""
        while True:
            text = f"{self._random.getrandbits(64):x} {self._text(num_tokens)}"
            text = self._tokenizer.decode(self._encode(text)[:num_tokens])
            # A cut within a word may be read as other tokens than were cut.
            if len(self._encode(text)) == num_tokens:
                return text

    def job(
        self, concurrency: int, max_tokens: int, temperature: float = 0, top_p: float = 1
    ) -> Job:
        """As many requests as run at a time, with prompts of mixed lengths."""
        lengths = itertools.islice(itertools.cycle(LENGTHS), max(concurrency, MIN_REQUESTS))
        prompts = [self.take(length) for length in lengths]
        requests = [Request(prompt, max_tokens, temperature, top_p) for prompt in prompts]
        return Job(requests, concurrency)

    def _text(self, num_tokens: int) -> str:
        """Documents of together at least so many tokens."""
        text = ""
        while len(self._encode(text)) < num_tokens:
            text += write_document(self._random) + "\n"
        return text

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids
