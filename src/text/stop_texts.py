"""`StopTexts`: ends a streamed text at a stop text, and never releases a part of one."""


class StopTexts:
    """Releases a growing text up to the first stop text.

    A tail that could be the beginning of a stop text is held back. All that `push` and `finish`
    return adds up to the text before the stop text.

    Args:
        stop: texts that end the generation and are not released.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._stop = stop
        self._num_held_back = max((len(text) for text in stop), default=1) - 1
        self._held_back = ""
        self.stop_text: str | None = None  # the stop text that ended the generation

    @property
    def stopped(self) -> bool:
        return self.stop_text is not None

    def push(self, text: str, *, may_stop: bool = True) -> str:
        """Takes more text and returns the text that is now certain; nothing after a stop text.

        With `may_stop` False the text is released unchanged, and no stop text begins in it.
        """
        if self.stopped:
            return ""
        return self._release(text) if may_stop else text

    def finish(self) -> str:
        """Returns the text held back at the end of the generation."""
        held_back, self._held_back = self._held_back, ""
        return "" if self.stopped else held_back

    def _release(self, text: str) -> str:
        """Returns all of `text` but a tail that could be the beginning of a stop text."""
        text = self._held_back + text
        starts = {stop: start for stop in self._stop if (start := text.find(stop)) >= 0}
        if starts:
            self.stop_text = min(starts, key=starts.__getitem__)
            return text[: starts[self.stop_text]]
        cut = max(0, len(text) - self._num_held_back)
        self._held_back = text[cut:]
        return text[:cut]
