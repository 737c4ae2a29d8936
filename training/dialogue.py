"""Chat turns: requests for stories, questions, small talk and JSON, alone or several in a row.

Contract: `write_conversation` returns turns that alternate user and assistant after an optional
system turn, and uses no phrasing that is held out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import Literal

from training import phrasings, words
from training.families import Fact
from training.grammar import Bindings
from training.replies import FACT_KEYS, answer_json, ask_json, create_task, fact_task
from training.slots import gender_of, with_article
from training.stories import write_story
from training.sums import answer_sum, ask_sum, sample_pair

# Kinds of exchanges with their frequencies.
EXCHANGES = {"fact": 44, "sum": 22, "story": 9, "json": 10, "talk": 9, "unknown": 6}

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Topic:
    """The topic of a requested story: its words in the request, its slots in the story."""

    text: str
    preset: Bindings


def write_conversation(random: Random, facts: Sequence[Fact]) -> list[Turn]:
    """Writes a conversation of one to five exchanges."""
    turns: list[Turn] = []
    if random.random() < 0.04:
        return _json_only(random, facts)
    if random.random() < 0.35:
        system = f"{random.choice(phrasings.SYSTEM_ROLES)} {random.choice(phrasings.SYSTEM_RULES)}"
        turns.append(Turn("system", system.strip()))
    for index in range(_num_exchanges(random)):
        kinds = tuple(EXCHANGES)
        kind = random.choices(kinds, tuple(EXCHANGES.values()))[0]
        turns += write_exchange(random, facts, kind, is_first=index == 0)
    return turns


def write_drill(random: Random, facts: Sequence[Fact]) -> list[Turn]:
    """Writes a conversation of several sums or JSON requests, most of them sums."""
    if random.random() >= 0.7:
        return write_json_drill(random, facts)
    return list(chain.from_iterable(_sum(random) for _ in range(random.randint(3, 6))))


def write_json_drill(random: Random, facts: Sequence[Fact]) -> list[Turn]:
    """Writes a conversation of several JSON requests."""
    return list(chain.from_iterable(_json(random, facts) for _ in range(random.randint(3, 6))))


def create_topic(random: Random) -> Topic:
    """Draws a random hero, thing, or both for a story."""
    name, trait = random.choice(words.GIRLS + words.BOYS), random.choice(list(words.TRAITS))
    kind, noun = random.choice(words.KINDS), random.choice(words.NOUNS)
    adjective = random.choice(words.ADJECTIVES)
    form = random.randrange(7)
    if form >= 5:
        kind = random.choice(words.NEUTRAL_KINDS)
    a_kind, a_trait, a_noun = (with_article(word) for word in (kind, trait, noun))
    named = {"kind": kind, "name": name, "hero_gender": gender_of(name)}
    return (
        Topic(a_kind, _hero(kind)),
        Topic(f"{a_trait} {kind}", {"trait": trait, **_hero(kind)}),
        Topic(a_noun, {"noun": noun}),
        Topic(f"{with_article(adjective)} {noun}", {"noun": noun, "adj": adjective}),
        Topic(f"{a_kind} and {a_noun}", {"noun": noun, **_hero(kind)}),
        Topic(f"{a_kind} named {name}", named),
        Topic(f"{a_trait} {kind} called {name}", {"trait": trait, **named}),
    )[form]


def decorate(random: Random, question: str) -> str:
    """Writes a question as people type it: with an opener, a closer, or less punctuation."""
    if random.random() < 0.12:
        question = question.rstrip("?.!")
    if random.random() < 0.12:
        question = question[0].lower() + question[1:]
    if random.random() < 0.5:
        return question
    closer = random.choice(phrasings.CLOSERS) if question[-1] in "?.!" else ""
    return random.choice(phrasings.OPENERS) + question + closer


def invent_name(random: Random) -> str:
    """Invents a country or person."""
    return "".join(random.choices(phrasings.INVENTED_SYLLABLES, k=random.randint(2, 4))).title()


def _hero(kind: str) -> Bindings:
    gender = dict.fromkeys(words.FEMALE_KINDS, "f") | dict.fromkeys(words.MALE_KINDS, "m")
    return {"kind": kind, **({"hero_gender": gender[kind]} if kind in gender else {})}


def _num_exchanges(random: Random) -> int:
    return random.choices((1, 2, 3, 4, 5), (50, 20, 14, 10, 6))[0]


def write_exchange(random: Random, facts: Sequence[Fact], kind: str, is_first: bool) -> list[Turn]:
    """Writes a request of one of the kinds of `EXCHANGES`, and its answer."""
    if kind == "fact":
        return _fact(random, facts)
    if kind == "sum":
        return _sum(random)
    if kind == "story":
        return _story(random)
    if kind == "json":
        return _json(random, facts)
    return _unknown(random) if kind == "unknown" else _talk(random, is_first)


def _sum(random: Random) -> list[Turn]:
    a, b = sample_pair(random)
    return _pair(decorate(random, ask_sum(random, a, b)), answer_sum(a, b))


def _json(random: Random, facts: Sequence[Fact]) -> list[Turn]:
    task = create_task(random, facts)
    return _pair(ask_json(random, task, phrasings.JSON_REQUESTS), answer_json(task))


def _fact(random: Random, facts: Sequence[Fact]) -> list[Turn]:
    fact = random.choice(facts)
    turns = _pair(decorate(random, random.choice(fact.questions)), fact.statement)
    if fact.family in phrasings.FOLLOW_UP_FAMILIES and random.random() < 0.15:
        other = random.choice([f for f in facts if f.family == fact.family])
        follow_up = random.choice(phrasings.FOLLOW_UPS).format(x=other.subject)
        turns += _pair(follow_up, other.statement)
    return turns


def _story(random: Random) -> list[Turn]:
    if random.random() < 0.15:
        return _pair(random.choice(phrasings.OPEN_STORY_REQUESTS), write_story(random))
    topic = create_topic(random)
    request = random.choice(phrasings.STORY_REQUESTS).format(topic=topic.text)
    return _pair(decorate(random, request), write_story(random, topic.preset))


def _talk(random: Random, is_first: bool) -> list[Turn]:
    greeting = random.choice(phrasings.GREETINGS) + random.choice(phrasings.GREETING_TAILS)
    choices = [
        (greeting, phrasings.GREETING_REPLIES),
        (random.choice(phrasings.IDENTITY_QUESTIONS), phrasings.IDENTITY_REPLIES),
        (random.choice(phrasings.ABILITY_QUESTIONS), (phrasings.ABILITY_REPLY,)),
    ]
    if not is_first:
        choices += [
            (random.choice(phrasings.THANKS), phrasings.THANKS_REPLIES),
            (random.choice(phrasings.GOODBYES), phrasings.GOODBYE_REPLIES),
        ]
    question, replies = random.choice(choices)
    question = question[0].lower() + question[1:] if random.random() < 0.2 else question
    return _pair(question, random.choice(replies))


def _unknown(random: Random) -> list[Turn]:
    if random.random() < 0.4:
        question = f"What is the capital of {invent_name(random)}?"
        if random.random() < 0.3:
            question = f"Who is {invent_name(random)} {invent_name(random)}?"
    else:
        question = random.choice(phrasings.UNKNOWN_QUESTIONS)
        question = question.format(x=random.choice(phrasings.UNKNOWN_SUBJECTS))
    return _pair(question, random.choice(phrasings.UNKNOWN_REPLIES))


def _json_only(random: Random, facts: Sequence[Fact]) -> list[Turn]:
    """Writes a conversation under a system turn that demands JSON: questions get objects."""
    turns = [Turn("system", random.choice(phrasings.JSON_SYSTEMS))]
    known = [fact for fact in facts if fact.family in FACT_KEYS]
    for _ in range(random.randint(1, 3)):
        fact = random.choice(known)
        turns += _pair(random.choice(fact.questions), answer_json(fact_task(fact)))
    return turns


def _pair(user: str, assistant: str) -> list[Turn]:
    return [Turn("user", user), Turn("assistant", assistant)]
