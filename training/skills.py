"""Tools like those of real clients, each with wordings and results.

Contract: plain data and `create_skill`.
"""

from dataclasses import dataclass
from random import Random

from training.abilities import Ability, create_parameter, parse_parameters
from training.listing import pairs_of, phrases_of
from training.tools import Tool

NUM_HELD_OUT = 2  # wordings of each skill


@dataclass(frozen=True, slots=True)
class Skill:
    """A kind of tool: its topics, name and possible descriptions, then the fields of `Ability`.

    `requests` are wordings; the last `NUM_HELD_OUT` are for evaluation alone.
    """

    topics: str
    name: str
    descriptions: str
    parameters: str
    requests: str
    subject: str
    results: str


def create_skill(random: Random, skill: Skill) -> Ability:
    """Creates a tool of this kind with one of its descriptions."""
    kinds = parse_parameters(skill.parameters)
    parameters = tuple(create_parameter(random, name, kind) for name, kind in kinds.items())
    tool = Tool(skill.name, random.choice(phrases_of(skill.descriptions)), parameters)
    requests = phrases_of(skill.requests)
    return Ability(
        tool,
        frozenset(skill.topics.split()),
        tuple(kinds.values()),
        requests[:-NUM_HELD_OUT],
        requests[-NUM_HELD_OUT:],
        skill.subject,
        pairs_of(skill.results),
    )
