"""JSON requests and their replies.

Contract: every reply is one valid JSON object with exactly the requested keys in order, and its
values come from the request or from listed facts.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from training import words
from training.families import Fact
from training.listing import words_of
from training.slots import with_article
from training.sums import sample_pair

FACT_KEYS = {
    "capital": ("country", "capital"),
    "opposite": ("word", "opposite"),
    "young": ("animal", "young"),
    "sound": ("animal", "sound"),
    "plural": ("word", "plural"),
}
SERIES = {
    "colors": words_of("red blue green yellow orange purple pink brown black white gray"),
    "animals": words_of("fox rabbit bear mouse owl cat dog wolf duck lion horse cow"),
    "fruits": words_of("apple pear plum cherry lemon banana grape peach orange melon"),
}
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}


@dataclass(frozen=True, slots=True)
class JsonTask:
    """A request for JSON in words, and the object that answers it."""

    subject: str
    answer: dict[str, object]


def ask_json(random: Random, task: JsonTask, requests: Sequence[str]) -> str:
    """Writes the user's turn for `task`."""
    keys = list(task.answer)
    quoted = [f'"{key}"' for key in keys] if random.random() < 0.3 else keys
    listed = quoted[0] if len(keys) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
    subject = task.subject
    capitalized = subject[0].upper() + subject[1:]
    return random.choice(requests).format(keys=listed, subject=subject, Subject=capitalized)


def answer_json(task: JsonTask) -> str:
    """Writes the assistant's turn for `task`."""
    return json.dumps(task.answer)


def create_task(random: Random, facts: Sequence[Fact]) -> JsonTask:
    """Creates a random task of any kind."""
    makers: list[Callable[[Random], JsonTask]] = [
        _person,
        _character,
        _character,
        _invented_character,
        _series,
        _sum,
        lambda random: fact_task(random.choice([f for f in facts if f.family in FACT_KEYS])),
    ]
    return _shuffled(random, random.choice(makers)(random))


def create_given_task(random: Random, facts: Sequence[Fact]) -> JsonTask:
    """Creates a random task with values from the request or from `facts`."""
    known = [fact for fact in facts if fact.family in FACT_KEYS]
    maker = random.choice((_person, _character, _sum, None))
    return maker(random) if maker else fact_task(random.choice(known))


def fact_task(fact: Fact) -> JsonTask:
    """Creates an object of subject and answer from a listed fact."""
    subject_key, answer_key = FACT_KEYS[fact.family]
    return JsonTask(
        f"the {answer_key} of {fact.subject}", {subject_key: fact.subject, answer_key: fact.answer}
    )


def _shuffled(random: Random, task: JsonTask) -> JsonTask:
    items = list(task.answer.items())
    if random.random() < 0.3:
        random.shuffle(items)
    return JsonTask(task.subject, dict(items))


def _name(random: Random) -> str:
    return random.choice(words.GIRLS + words.BOYS)


def _person(random: Random) -> JsonTask:
    name, age = _name(random), random.randint(1, 99)
    kind = random.choice(("girl", "boy", "person", "woman", "man"))
    form = random.choice(
        ("{a} named {name} who is {age} years old", "{name}, age {age}", "{a} called {name}, {age}")
    )
    subject = form.format(a=with_article(kind), name=name, age=age)
    return JsonTask(subject, {"name": name, "age": age})


def _character(random: Random) -> JsonTask:
    values = {
        "name": _name(random),
        "kind": random.choice(words.KINDS),
        "trait": random.choice(list(words.TRAITS)),
    }
    subject = f"{with_article(values['trait'])} {values['kind']} named {values['name']}"
    keys = random.choice((("name", "kind", "trait"), ("name", "kind"), ("name", "trait")))
    return JsonTask(subject, {key: values[key] for key in keys})


def _invented_character(random: Random) -> JsonTask:
    subject = random.choice(("a character", "a hero", "somebody from a story", "a made-up person"))
    return JsonTask(subject, _character(random).answer)


def _series(random: Random) -> JsonTask:
    key, number = random.choice(list(SERIES)), random.choice(list(NUMBERS))
    return JsonTask(f"{number} {key}", {key: random.sample(SERIES[key], NUMBERS[number])})


def _sum(random: Random) -> JsonTask:
    a, b = sample_pair(random)
    return JsonTask(f"the sum of {a} and {b}", {"a": a, "b": b, "sum": a + b})
