"""Token ids to text, one at a time: never half a character, never a piece of a stop string."""

from tokenizers import Tokenizer

NUM_CONTEXT_TOKENS = 6
"""Tokens before a new one that can change how it is written (a leading space, a joined accent)."""

MAX_CHARACTER_BYTES = 4
"""A character takes so many bytes at most."""

REPLACEMENT = "\ufffd"
"""What decoding makes of bytes that are no whole character."""


class IncrementalDetokenizer:
    """The text of one request while it grows.

    A byte-level token can be a part of a character, so text is given out when its last character is
    whole. A stop string can be split over tokens, so as many characters are held back as could yet
    become one. What `push` and `finish` return adds up to the whole text.

    The new text is the difference between decoding a few tokens of context with and without the new
    ones, as in text-generation-inference's `decode_token`.

    Args:
        tokenizer: the model's, in the Rust library's form.
        prompt_token_ids: the tokens before; how a word begins can depend on them.
        stop: texts that end the generation and are not given out.
        spelled: special tokens that are a part of the text; others leave nothing in it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: list[int],
        stop: tuple[str, ...] = (),
        spelled: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        # Where bytes stand in for what the vocabulary lacks, a run of them is decoded as a whole.
        self._has_byte_runs = "ByteFallback" in repr(tokenizer.decoder)
        self._context = self._last_tokens(prompt_token_ids)
        self._pending: list[int] = []  # tokens whose text was not given out yet
        self._spelled = {one: str(tokenizer.id_to_token(one)) for one in spelled}
        self._stop = stop
        self._num_held_back = max((len(text) for text in stop), default=1) - 1
        self._held_back = ""
        self.stop_text: str | None = None  # that was found

    @property
    def stopped(self) -> bool:
        return self.stop_text is not None

    def push(self, token_id: int, *, may_stop: bool = True) -> str:
        """Takes the next token and returns the text that is now certain.

        After a stop string was found, `stopped` is set and no more text comes. A token that may not
        stop gives out its text as it is, and no stop string begins in it.
        """
        if self.stopped:
            return ""
        self._pending.append(token_id)
        text = self._pending_text()
        if token_id in self._spelled:  # what is not whole before it never will be
            text = text.rstrip(REPLACEMENT) + self._spelled[token_id]
        elif not text or text.endswith(REPLACEMENT):
            return ""
        self._context = self._last_tokens(self._context + self._pending)
        self._pending = []
        return self._release(text) if may_stop else text

    def finish(self) -> str:
        """Returns what was held back; a character that never became whole is left out."""
        if self.stopped:
            return ""
        text = self._release(self._pending_text().rstrip(REPLACEMENT))
        if not self.stopped:
            text += self._held_back
        self._held_back, self._pending = "", []
        return text

    def _last_tokens(self, token_ids: list[int]) -> list[int]:
        """The context of what comes next; it begins with a whole character."""
        num_tokens = NUM_CONTEXT_TOKENS
        if self._has_byte_runs:
            starts = range(NUM_CONTEXT_TOKENS, NUM_CONTEXT_TOKENS + MAX_CHARACTER_BYTES)
            whole = (one for one in starts if REPLACEMENT not in self._decode(token_ids[-one:]))
            num_tokens = next(whole, num_tokens)
        return token_ids[-num_tokens:]

    def _pending_text(self) -> str:
        before = self._decode(self._context)
        return self._decode(self._context + self._pending)[len(before) :]

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)

    def _release(self, text: str) -> str:
        """Gives out all of `text` but a tail that could be the beginning of a stop string."""
        text = self._held_back + text
        starts = {stop: at for stop in self._stop if (at := text.find(stop)) >= 0}
        if starts:
            self.stop_text = min(starts, key=starts.__getitem__)
            return text[: starts[self.stop_text]]
        cut = max(0, len(text) - self._num_held_back)
        self._held_back = text[cut:]
        return text[:cut]
