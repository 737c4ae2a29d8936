"""Parsers of the lists in which the generator's constants are written.

Contract: order is kept, surrounding space is dropped, and nothing else is changed.
"""


def words_of(text: str) -> tuple[str, ...]:
    """Splits words at white space."""
    return tuple(text.split())


def phrases_of(text: str) -> tuple[str, ...]:
    """Splits phrases at bars and line ends."""
    return tuple(phrase.strip() for phrase in text.replace("\n", "|").split("|"))


def pairs_of(text: str) -> dict[str, str]:
    """Parses "subject: answer" items, separated by semicolons; they may span lines."""
    items = (" ".join(item.split()).split(": ") for item in text.split(";"))
    return dict(items)
