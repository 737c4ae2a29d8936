"""`IncrementalDetokenizer`: token ids to text, never half a character.

`tokenizers.decoders.DecodeStream` takes a fifth of the time, but does not fit three cases. It
raises "Invalid prefix" when a malformed run of byte-fallback tokens changes text that it has given
out. It repeats prompt text if the prompt ends inside of a character. And it cannot return the text
before an unfinished character at the end of the generation.
"""

from tokenizers import Tokenizer

NUM_CONTEXT_TOKENS = 6
"""Earlier tokens that can change the text of a new one (a leading space, a joined accent)."""

MAX_CHARACTER_BYTES = 4
"""Bytes of the longest UTF-8 character."""

MAX_UNFINISHED_TOKENS = 32
"""Tokens after which an unfinished character counts as malformed bytes.

Decoding all pending tokens for each new one would otherwise take quadratic time.
"""

REPLACEMENT = "\ufffd"
"""Character that decoding writes for malformed or partial bytes."""


class IncrementalDetokenizer:
    """The growing text of one sequence.

    Text is released when its last character is whole, as a byte-level token can be a part of one.
    All that `push` and `finish` return adds up to the whole text.

    The new text is the difference between decoding a few context tokens with and without the new
    ones, as in text-generation-inference's `decode_token`.

    Args:
        tokenizer: the model's, in the Rust library's form.
        prompt_token_ids: the tokens before the answer; they can change how its first word begins.
        spelled: special tokens that are part of the text.
        skipped: special tokens that are not.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: list[int],
        spelled: frozenset[int] = frozenset(),
        skipped: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        # A run of byte-fallback tokens is decoded as a whole, so a context must not begin in one.
        self._has_byte_runs = "ByteFallback" in repr(tokenizer.decoder)
        self._context = self._last_tokens(prompt_token_ids)
        self._pending: list[int] = []  # tokens without released text
        self._spelled = {token_id: str(tokenizer.id_to_token(token_id)) for token_id in spelled}
        self._skipped = skipped

    def push(self, token_id: int) -> str:
        """Takes the next token and returns the text that is now certain."""
        if token_id in self._skipped:
            return ""
        self._pending.append(token_id)
        text = self._pending_text()
        is_unfinished = not text or text.endswith(REPLACEMENT)
        if token_id in self._spelled:  # an unfinished character before it stays unfinished
            text = text.rstrip(REPLACEMENT) + self._spelled[token_id]
        elif is_unfinished and len(self._pending) <= MAX_UNFINISHED_TOKENS:
            return ""
        self._context = self._last_tokens(self._context + self._pending)
        self._pending = []
        return text

    def finish(self) -> str:
        """Returns the text of pending tokens; an unfinished character is left out."""
        text = self._pending_text().rstrip(REPLACEMENT)
        self._pending = []
        return text

    def _last_tokens(self, token_ids: list[int]) -> list[int]:
        """Returns the context of the next tokens, which begins with a whole character."""
        num_tokens = NUM_CONTEXT_TOKENS
        if self._has_byte_runs:
            lengths = range(NUM_CONTEXT_TOKENS, NUM_CONTEXT_TOKENS + MAX_CHARACTER_BYTES)
            whole = (
                length for length in lengths if REPLACEMENT not in self._decode(token_ids[-length:])
            )
            num_tokens = next(whole, num_tokens)
        return token_ids[-num_tokens:]

    def _pending_text(self) -> str:
        before = self._decode(self._context)
        return self._decode(self._context + self._pending)[len(before) :]

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)
