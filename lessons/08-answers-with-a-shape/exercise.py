"""Exercise 8: text of a stream that may become a tag."""


def split(text: str, tag: str) -> tuple[str, str]:
    """Returns the part of a stream's text that can be shown, and the part to hold back.

    - With a tag in the text, all before the first one is shown, and the rest is held back.
    - Otherwise the longest end of the text that is a beginning of the tag is held back.

    Both parts together are the text. As much as possible is shown.

    Args:
        text: received and not yet shown.
        tag: at least one character.
    """
    raise NotImplementedError
