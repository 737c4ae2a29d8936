"""Typed slots of the story grammar: hero, helper, wanted thing, trouble, and their pronouns.

Contract: every surface form states all that it implies. So one mechanism keeps names, traits and
pronouns consistent, in writing and in checking a story.
"""

from collections.abc import Iterable, Mapping

from training import words
from training.grammar import Bindings, Slot, create_slot

PRONOUNS = {
    "he": ("he", "she"),
    "him": ("him", "her"),
    "his": ("his", "her"),
    "He": ("He", "She"),
    "His": ("His", "Her"),
}


def with_article(noun: str) -> str:
    """Puts "a" or "an" in front of `noun`."""
    return f"{'an' if noun[0] in 'aeiouAEIOU' and noun[:2] != 'un' else 'a'} {noun}"


def create_slots() -> dict[str, Slot]:
    """Returns all slots by the name that templates use."""
    slots = {
        **_person("name", "kind", "hero_gender", ""),
        **_person("friend", "fkind", "friend_gender", "f"),
        **_noun("trait", words.TRAITS),
        **_noun("adj", words.ADJECTIVES),
        **_noun("noun", words.NOUNS),
        **_plain("home", words.HOMES),
        **_plain("spot", words.SPOTS),
        **_plain("reason", words.REASONS),
        **_plain("weather", words.WEATHERS),
        **_plain("time", words.TIMES),
        **_plain("later_weather", words.WEATHERS),
        **_plain("later_time", words.TIMES),
        **_plain("feast", words.FEASTS),
        **_plain("cry", words.CRIES),
        **_plain("loss", words.LOSSES),
        **_noun("dish", words.DISHES),
        **_plain("obstacle", words.OBSTACLES),
        **_plain("skill", words.SKILLS),
    }
    slots["deed"] = _of("deed", "trait", words.TRAITS)
    slots["trouble"] = _of("trouble", "obstacle", {k: (v[0],) for k, v in words.OBSTACLES.items()})
    slots["way"] = _of("way", "obstacle", {k: v[1] for k, v in words.OBSTACLES.items()})
    slots["ingredient"] = _of("ingredient", "dish", words.DISHES)
    slots["fail"] = _of("fail", "skill", {k: (v[0],) for k, v in words.SKILLS.items()})
    slots["success"] = _of("success", "skill", {k: (v[1],) for k, v in words.SKILLS.items()})
    return slots


def gender_of(name: str) -> str:
    """Returns "f" or "m" for a listed name."""
    return "f" if name in words.GIRLS else "m"


def _plain(key: str, values: Iterable[str]) -> dict[str, Slot]:
    return {key: create_slot(key, {value: {key: value} for value in values})}


def _noun(key: str, values: Iterable[str]) -> dict[str, Slot]:
    values = tuple(values)
    articled = create_slot(key, {with_article(value): {key: value} for value in values})
    return {**_plain(key, values), f"a_{key}": articled}


def _of(key: str, owner: str, table: Mapping[str, Iterable[str]]) -> Slot:
    """Creates a slot with surfaces that each belong to one value of `owner`."""
    return create_slot(
        key, {value: {key: value, owner: of} for of, values in table.items() for value in values}
    )


def _person(name: str, kind: str, gender: str, prefix: str) -> dict[str, Slot]:
    genders: dict[str, Bindings] = {value: {gender: "f"} for value in words.FEMALE_KINDS}
    genders |= {value: {gender: "m"} for value in words.MALE_KINDS}
    names = {value: {name: value, gender: gender_of(value)} for value in words.GIRLS + words.BOYS}
    kinds = {value: {kind: value, **genders.get(value, {})} for value in words.KINDS}
    articled = {with_article(value): bindings for value, bindings in kinds.items()}
    slots = {
        name: create_slot(name, names),
        kind: create_slot(kind, kinds),
        f"a_{kind}": create_slot(kind, articled),
    }
    for pronoun, (male, female) in PRONOUNS.items():
        surfaces: dict[str, Bindings] = {male: {gender: "m"}, female: {gender: "f"}}
        slots[prefix + pronoun] = create_slot(gender, surfaces)
    return slots
