"""Drills of copying: text to repeat, and records whose values are asked for by their keys.

Contract: whatever the assistant says stands in what the user said; nothing of it is known before.
"""

import json
from functools import cache
from random import Random

from training import facts, statements, words
from training.dialogue import Turn
from training.values import Value, invent_word, sample_value

REPEAT_REQUESTS = (
    "Repeat: {x}", "Say {x}", "Repeat after me: {x}", "{x}\nSay that again.", "Copy this: {x}",
    "Write down: {x}", "Echo: {x}",
)  # fmt: skip
QUOTE_REQUESTS = (
    "List {x}", "Write {x} as a list.", "A list of {x}, please.", "Put {x} into a list.",
    "What are they? They are {x}.", "Quote {x}",
)  # fmt: skip
KEY_QUESTIONS = (
    "What is {k}?", "{k}?", "What is the {k}?", "Give me {k}.", "And {k}?", "The {k}, please.",
)  # fmt: skip
LIST_REQUESTS = ("Read it to me.", "What does it say?", "Say it in words.", "List it.")
KINDS = (
    "city", "name", "thing", "code", "symbol", "email", "date", "time", "number", "int", "small",
    "bool", "message", "title", "subject", "expression", "thing", "name",
)  # fmt: skip


@cache
def common_words() -> tuple[str, ...]:
    """The words of statements and stories' places, so that any of them can be said again."""
    lists = (
        statements.WORLD,
        statements.FUTURE_CLAUSES,
        statements.FUTURE_ROLES,
        statements.HABITS,
    )
    text = " ".join(phrase for phrases in (*lists, words.HOMES, words.SPOTS) for phrase in phrases)
    return tuple(sorted({*text.split(), *words.ADJECTIVES, *words.TRAITS, *facts.JOBS}))


def write_echo(random: Random) -> list[Turn]:
    """A conversation in which everything that is said has been said before."""
    return random.choices((_repeat, _look_up, _quote), (3, 3, 4))[0](random)


def _repeat(random: Random) -> list[Turn]:
    turns = []
    for _ in range(random.randint(1, 3)):
        text = _create_text(random)
        request = random.choice(REPEAT_REQUESTS).format(x=text)
        turns += [Turn("user", request), Turn("assistant", text)]
    return turns


def _create_text(random: Random) -> str:
    """Words, invented and known, and values, joined in one of many ways."""
    pieces = [_create_piece(random) for _ in range(random.randint(2, 20))]
    separator = random.choice((" ", " ", ", ", "_", "\n", " - ", '", "', ""))
    return separator.join(pieces)


def _create_piece(random: Random) -> str:
    draw = random.random()
    if draw < 0.3:
        word = invent_word(random)
        return word.title() if random.random() < 0.3 else word
    if draw < 0.6:
        return random.choice(common_words())
    if draw < 0.75:
        return random.choice(random.choice((words.NOUNS, words.KINDS, words.GIRLS, words.BOYS)))
    return str(sample_value(random, random.choice(KINDS)))


def _quote(random: Random) -> list[Turn]:
    """Words in a row and then as JSON: after a quote a word has other tokens than after a space."""
    turns = []
    for _ in range(random.randint(1, 3)):
        values = [_create_quoted(random) for _ in range(random.randint(1, 8))]
        listed = random.choice((", ", " and ", " to ")).join(str(value) for value in values)
        request = random.choice(QUOTE_REQUESTS).format(x=listed)
        quoted = json.dumps(values, ensure_ascii=False)
        turns += [Turn("user", request), Turn("assistant", quoted)]
    return turns


def _create_quoted(random: Random) -> Value:
    if random.random() < 0.4:
        return _create_piece(random)
    kind = random.choice(("city", "city", "name", "country", *KINDS))
    return sample_value(random, "code" if kind == "bool" else kind)


def _look_up(random: Random) -> list[Turn]:
    record = _create_record(random)
    text = json.dumps(record, ensure_ascii=False)
    turns: list[Turn] = []
    for key in random.sample(list(record), random.randint(1, len(record))):
        question = random.choice(KEY_QUESTIONS).format(k=key)
        turns += [Turn("user", question), Turn("assistant", _spell(record[key]))]
    if random.random() < 0.5:
        listed = ", ".join(f"{key} {_spell(value)}" for key, value in record.items())
        turns += [Turn("user", random.choice(LIST_REQUESTS)), Turn("assistant", f"{listed}.")]
    return [Turn("user", f"{text}\n{turns[0].content}"), *turns[1:]]


def _create_record(random: Random) -> dict[str, Value]:
    def create_key() -> str:
        return invent_word(random) if random.random() < 0.5 else random.choice(words.NOUNS)

    return {
        create_key(): sample_value(random, random.choice(KINDS))
        for _ in range(random.randint(2, 6))
    }


def _spell(value: Value) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)
