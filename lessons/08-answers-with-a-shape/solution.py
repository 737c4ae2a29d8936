"""An answer to exercise 8."""


def split(text: str, tag: str) -> tuple[str, str]:
    """Returns the part of a stream's text that can be shown, and the part to hold back."""
    if tag in text:
        position = text.index(tag)
        return text[:position], text[position:]
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-length:]):
            return text[:-length], text[-length:]
    return text, ""
