"""Statements and questions for each family of facts, with phrasings that training never sees.

Contract: a fact has one canonical statement, which is also its answer. Every family keeps two whole
question cores for evaluation alone: the last of its own, and one of the rarer shared frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from training import facts
from training.slots import with_article

# Frames around a noun phrase such as "the capital of France".
COMMON_FRAMES = ("What is {phrase}?", "Tell me {phrase}.", "Can you tell me {phrase}?")
FRAMES = (
    *COMMON_FRAMES,
    "Do you know {phrase}?",
    "Name {phrase}.",
    "I would like to know {phrase}.",
    "What's {phrase}?",
    "{Phrase} is what?",
    "Say what {phrase} is.",
    "I need to know {phrase}.",
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact, such as the answer "Paris" to the subject "France", with its wordings."""

    family: str
    subject: str
    answer: str
    statement: str
    questions: tuple[str, ...]
    held_out_questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """A table of facts with its wordings.

    `{x}` and `{y}` are subject and answer, `{a}` and `{b}` the same with an article.
    """

    name: str
    table: Mapping[str, str]
    statement: str
    phrase: str
    questions: tuple[str, ...]


FAMILIES = (
    Family(
        "capital", facts.CAPITALS, "The capital of {x} is {y}.", "the capital of {x}",
        ("Which city is the capital of {x}?", "What is the capital city of {x}?",
         "{x} has which capital?", "What city is {x}'s capital?", "Capital of {x}?",
         "Which capital does {x} have?"),
    ),
    Family(
        "continent", facts.CONTINENTS, "{x} is in {y}.", "the continent of {x}",
        ("Where is {x}?", "On which continent is {x}?", "In what part of the world is {x}?",
         "Which continent is {x} in?"),
    ),
    Family(
        "sound", facts.SOUNDS, "{A} says {y}.", "the sound of {a}",
        ("What does {a} say?", "What sound does {a} make?", "Which noise does {a} make?",
         "How does {a} sound?", "What noise comes from {a}?"),
    ),
    Family(
        "young", facts.YOUNG, "A young {x} is called {b}.", "the word for a young {x}",
        ("What is a young {x} called?", "What do you call a young {x}?",
         "What is the name of a baby {x}?", "A baby {x} is called what?",
         "How is a young {x} called?"),
    ),
    Family(
        "color", facts.COLORS, "The color of {a} is {y}.", "the color of {a}",
        ("What color is {a}?", "Which color does {a} have?", "What is the colour of {a}?",
         "What color has {a}?"),
    ),
    Family(
        "opposite", facts.OPPOSITES, "The opposite of {x} is {y}.", "the opposite of {x}",
        ("Which word is the opposite of {x}?", "What word means the opposite of {x}?",
         "Give me the opposite of {x}.", "Opposite of {x}?", "What is the contrary of {x}?",
         "Find the opposite of {x}."),
    ),
    Family(
        "legs", facts.LEGS, "{A} has {y} legs.", "the number of legs of {a}",
        ("How many legs does {a} have?", "How many legs has {a} got?",
         "On how many legs does {a} walk?", "Count the legs of {a}.",
         "How many legs are there on {a}?"),
    ),
    Family(
        "home", facts.HOMES, "{A} lives in {b}.", "the home of {a}",
        ("Where does {a} live?", "What does {a} live in?", "In what kind of home does {a} live?",
         "Where is {a} at home?"),
    ),
    Family(
        "job", facts.JOBS, "{A} {y}.", "the work of {a}",
        ("What does {a} do?", "What is the job of {a}?", "What does {a} do all day?",
         "What kind of work does {a} do?"),
    ),
    Family(
        "tool", facts.TOOLS, "To {x} you use {b}.", "the tool to {x}",
        ("What do you use to {x}?", "What do I need to {x}?", "Which thing helps to {x}?",
         "How can I {x}?", "What should I take to {x}?"),
    ),
    Family(
        "plural", facts.PLURALS, "The plural of {x} is {y}.", "the plural of {x}",
        ("What is the plural form of {x}?", "One {x}, many what?", "Give me the plural of {x}.",
         "How do you say more than one {x}?", "Which word is the plural of {x}?"),
    ),
    Family(
        "planet", facts.PLANETS, "The {x} planet from the Sun is {y}.",
        "the {x} planet from the Sun",
        ("Which planet is the {x} from the Sun?", "Which is the {x} planet?",
         "What is the name of the {x} planet?", "Give me the {x} planet from the Sun."),
    ),
    Family(
        "next day", facts.NEXT_DAY, "The day after {x} is {y}.", "the day after {x}",
        ("Which day comes after {x}?", "What day follows {x}?", "What comes after {x}?",
         "Which day is after {x}?"),
    ),
    Family(
        "day before", facts.DAY_BEFORE, "The day before {x} is {y}.", "the day before {x}",
        ("Which day comes before {x}?", "What comes before {x}?", "Which day is before {x}?"),
    ),
    Family(
        "next month", facts.NEXT_MONTH, "The month after {x} is {y}.", "the month after {x}",
        ("Which month comes after {x}?", "What month follows {x}?", "What comes after {x}?",
         "Which month is after {x}?"),
    ),
    Family(
        "next letter", facts.NEXT_LETTER, "The letter after {x} is {y}.", "the letter after {x}",
        ("Which letter comes after {x}?", "What letter follows {x}?",
         "Which letter is next after {x}?", "Which letter is after {x}?"),
    ),
    Family(
        "count", facts.COUNTS, "The number of {x} is {y}.", "the number of {x}",
        ("How many {x}?", "How many {x} are there?", "Count the {x}.",
         "How many are the {x}?"),
    ),
)  # fmt: skip
# Things without an article in front.
MASS_NOUNS = {"coal", "grass", "chocolate", "milk", "fresh snow"}
THE_NOUNS = {"clear sky": "the clear sky"}
BARE_ANSWERS = {"barracks", "scissors"}


def all_facts() -> list[Fact]:
    """Returns every fact of every family, in a fixed order."""
    return [
        create_fact(family, index, subject)
        for index, family in enumerate(FAMILIES)
        for subject in family.table
    ]


def create_fact(family: Family, index: int, subject: str) -> Fact:
    """Words one fact; `index` decides which shared frame its family holds out."""
    answer = family.table[subject]
    articled = THE_NOUNS.get(subject, subject if subject in MASS_NOUNS else with_article(subject))
    slots = {
        "x": subject,
        "a": articled,
        "A": articled[0].upper() + articled[1:],
        "y": answer,
        "b": answer if answer in BARE_ANSWERS else with_article(answer),
    }
    phrase = family.phrase.format(**slots)
    capital_phrase = phrase[0].upper() + phrase[1:]
    rarer_frames = FRAMES[len(COMMON_FRAMES) :]
    held_out_frame = rarer_frames[index % len(rarer_frames)]
    frames = {frame: frame.format(phrase=phrase, Phrase=capital_phrase) for frame in FRAMES}
    own = [_capitalized(question.format(**slots)) for question in family.questions]
    held_out = (frames.pop(held_out_frame), own.pop())
    statement = _capitalized(family.statement.format(**slots))
    return Fact(family.name, subject, answer, statement, (*frames.values(), *own), held_out)


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]
