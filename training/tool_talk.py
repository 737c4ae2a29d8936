"""Conversations about tools: calls, their results, answers that use them, and refusals to call.

Contract: `write_tool_conversation` lists one to three tools in the system turn; a request that
one of them serves is followed by its call, and any other is answered in words.
"""

from collections.abc import Sequence
from random import Random

from training import phrasings
from training.abilities import Ability, Task, create_task
from training.action_skills import ACTION_SKILLS
from training.dialogue import Turn, decorate, write_exchange
from training.families import Fact
from training.lookup_skills import LOOKUP_SKILLS
from training.skills import Skill, create_skill
from training.tools import list_tools, write_call

SKILLS = (*LOOKUP_SKILLS, *ACTION_SKILLS)
NO_TOOL_REPLIES = ("I have no tool for that.", "I am sorry, none of my tools can do that.")


def create_abilities(random: Random, count: int, skills: Sequence[Skill] = SKILLS) -> list[Ability]:
    """Creates several tools with different names and topics."""
    abilities: list[Ability] = []
    while len(abilities) < count:
        abilities.append(_create_other(random, abilities, skills))
    return abilities


def create_unserved_task(
    random: Random, abilities: Sequence[Ability], held_out: bool = False
) -> Task:
    """Writes a request that none of `abilities` serves."""
    other = _create_other(random, abilities, SKILLS)
    requests = other.held_out_requests if held_out else other.requests
    return create_task(random, other, requests, held_out)


def write_tool_conversation(random: Random, facts: Sequence[Fact]) -> list[Turn]:
    """Writes a system turn with one to three tools, then one to three exchanges."""
    abilities = create_abilities(random, random.choices((1, 2, 3), (35, 40, 25))[0])
    turns = [list_in_system_turn(random, abilities, phrasings.SYSTEM_ROLES)]
    for _ in range(random.choices((1, 2, 3), (45, 35, 20))[0]):
        if random.random() < 0.5:
            turns += _call(random, random.choice(abilities))
        else:
            turns += _no_call(random, abilities, facts, is_first=len(turns) == 1)
    return turns


def list_in_system_turn(
    random: Random, abilities: Sequence[Ability], systems: Sequence[str]
) -> Turn:
    """Lists the tools, after some instructions in one third of the cases."""
    listed = list_tools([ability.tool for ability in abilities])
    if random.random() < 1 / 3:
        listed = f"{random.choice(systems)}\n{listed}"
    return Turn("system", listed)


def write_called(task: Task) -> list[Turn]:
    """Writes the call that serves `task`, and its result."""
    call = write_call(task.ability.tool, task.arguments)
    return [Turn("assistant", call), Turn("tool", task.result)]


def _create_other(random: Random, abilities: Sequence[Ability], skills: Sequence[Skill]) -> Ability:
    """Creates a tool that shares neither name nor topic with the others."""
    names = {ability.tool.name for ability in abilities}
    topics = frozenset[str]().union(*(ability.topics for ability in abilities))
    while True:
        other = create_skill(random, random.choice(skills))
        if other.tool.name not in names and not other.topics & topics:
            return other


def _call(random: Random, ability: Ability) -> list[Turn]:
    task = create_task(random, ability, ability.requests)
    request = Turn("user", _decorate(random, task))
    return [request, *write_called(task), Turn("assistant", task.answer)]


def _no_call(
    random: Random, abilities: Sequence[Ability], facts: Sequence[Fact], is_first: bool
) -> list[Turn]:
    """Writes talk that needs no tool, or a request that would need a missing one."""
    if random.random() < 0.5:
        request = _decorate(random, create_unserved_task(random, abilities))
        return [Turn("user", request), Turn("assistant", random.choice(NO_TOOL_REPLIES))]
    kinds = {"fact": 50, "sum": 20, "story": 3, "json": 7, "talk": 20}
    kind = random.choices(tuple(kinds), tuple(kinds.values()))[0]
    return write_exchange(random, facts, kind, is_first)


def _decorate(random: Random, task: Task) -> str:
    """Writes the request as people type it, unless its first word is to be copied unchanged."""
    values = tuple(str(value) for value in task.arguments.values())
    return task.request if task.request.startswith(values) else decorate(random, task.request)
