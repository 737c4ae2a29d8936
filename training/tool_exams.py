"""Exams about tools: when the model calls, what it calls with, and what it makes of a result.

Contract: seeded; the tools of `unseen_calls` are in no training document, and neither is any
request of these exams in its wording, nor any value of a kind that has unseen ones.
"""

import json
from collections.abc import Callable
from functools import partial
from random import Random

from training import phrasings
from training.abilities import Ability, Task, create_task
from training.dialogue import Turn
from training.documents import ROLE_TOKENS, render, training_facts
from training.questions import Exam, Question
from training.skills import create_skill
from training.sums import HELD_OUT_QUESTIONS, held_out_pairs
from training.tool_talk import (
    SKILLS,
    create_abilities,
    create_unserved_task,
    list_in_system_turn,
    write_called,
)

CALL_START, CALL_END = "<tool_call>\n", "\n</tool_call>"


def create_tool_exams() -> list[Exam]:
    """The exams in the order of the table."""
    return [
        Exam(
            "Tool calls with the right name and arguments, unseen tools and wordings",
            unseen_calls(200),
            max_new_tokens=160,
        ),
        Exam(
            "Tool calls with the right name and arguments, usual tools in unseen wordings",
            usual_calls(200),
            max_new_tokens=160,
        ),
        Exam("No call where no tool fits", uncalled_for(200), max_new_tokens=160),
        Exam("Answers that use the tool's result", results(200)),
    ]


def unseen_calls(count: int) -> list[Question]:
    """One of one to three tools that training never lists."""
    random = Random("exam/unseen tools")
    return [_ask_call(random, _create_unseen(random)) for _ in range(count)]


def usual_calls(count: int) -> list[Question]:
    """A usual tool alone or beside an unseen one."""
    random = Random("exam/usual tools")
    questions = []
    for _ in range(count):
        others = create_abilities(random, random.randint(0, 1), held_out=True)
        questions.append(_ask_call(random, [create_skill(random, random.choice(SKILLS)), *others]))
    return questions


def uncalled_for(count: int) -> list[Question]:
    """Requests for other tools, listed facts and sums, in front of unseen tools."""
    random = Random("exam/no call")
    questions = []
    for number in range(count):
        abilities = _create_unseen(random)
        if number % 2:
            text = create_unserved_task(random, abilities, held_out=True).request
        elif number % 4:
            a, b = random.choice(held_out_pairs())
            text = random.choice(HELD_OUT_QUESTIONS).format(a=a, b=b)
        else:
            text = random.choice(random.choice(training_facts()).held_out_questions)
        questions.append(_ask(random, abilities, [Turn("user", text)], _is_not_called))
    return questions


def results(count: int) -> list[Question]:
    """A call has been made and has returned something."""
    random = Random("exam/results")
    questions = []
    for _ in range(count):
        abilities = _create_unseen(random)
        task = _create_unseen_task(random, abilities[0])
        turns = [Turn("user", task.request), *write_called(task)]
        questions.append(_ask(random, abilities, turns, partial(_shows, task.shown)))
    return questions


def _create_unseen(random: Random) -> list[Ability]:
    return create_abilities(random, random.randint(1, 3), held_out=True)


def _create_unseen_task(random: Random, ability: Ability) -> Task:
    return create_task(random, ability, ability.held_out_requests, held_out=True)


def _ask_call(random: Random, abilities: list[Ability]) -> Question:
    """Asks for the first of the tools, which are listed in any order."""
    task = _create_unseen_task(random, abilities[0])
    call = {"name": task.ability.tool.name, "arguments": task.arguments}
    shuffled = random.sample(abilities, len(abilities))
    return _ask(random, shuffled, [Turn("user", task.request)], partial(_is_call, call))


def _ask(
    random: Random, abilities: list[Ability], turns: list[Turn], is_right: Callable[[str], bool]
) -> Question:
    system = list_in_system_turn(random, abilities, phrasings.HELD_OUT_SYSTEMS)
    return Question(render([system, *turns]) + ROLE_TOKENS["assistant"], is_right)


def _is_call(call: dict[str, object], text: str) -> bool:
    """Whether the text is the one call, and nothing else."""
    if not (text.startswith(CALL_START) and text.endswith(CALL_END)):
        return False
    try:
        return json.loads(text.removeprefix(CALL_START).removesuffix(CALL_END)) == call
    except json.JSONDecodeError:
        return False


def _is_not_called(text: str) -> bool:
    return bool(text) and "tool_call" not in text


def _shows(shown: tuple[str, ...], text: str) -> bool:
    return "tool_call" not in text and all(value in text for value in shown)
