"""Reads the lists that the generator's constants are written as.

Contract: order is kept, surrounding space is dropped, and nothing else is changed.
"""


def words_of(text: str) -> tuple[str, ...]:
    """Words separated by white space."""
    return tuple(text.split())


def phrases_of(text: str) -> tuple[str, ...]:
    """Phrases separated by bars or line ends."""
    return tuple(phrase.strip() for phrase in text.replace("\n", "|").split("|"))


def pairs_of(text: str) -> dict[str, str]:
    """ "subject: answer" items separated by semicolons, which may continue on the next line."""
    items = (" ".join(item.split()).split(": ") for item in text.split(";"))
    return dict(items)
