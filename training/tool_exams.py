"""Exams about tools: the choice to call, the call's arguments, and the use of a result.

Contract: seeded; the tools of `unseen_calls` are in no training document, and neither is any
request of these exams in its wording, nor any call with its arguments.
"""

import json
from collections.abc import Callable
from functools import partial
from random import Random

from training import phrasings
from training.abilities import Ability, Task, create_task
from training.dialogue import Turn
from training.documents import ROLE_TOKENS, render, training_facts
from training.held_out_skills import HELD_OUT_SKILLS
from training.questions import Exam, Question
from training.sums import HELD_OUT_QUESTIONS, held_out_pairs
from training.tool_talk import (
    create_abilities,
    create_unserved_task,
    list_in_system_turn,
    write_called,
)

CALL_START, CALL_END = "<tool_call>\n", "\n</tool_call>"


def create_tool_exams() -> list[Exam]:
    """Creates the exams in the order of the table."""
    return [
        Exam(
            "Calls of usual tools in unseen phrasings, name and arguments right",
            usual_calls(200),
            goal="≥ 80 %",
            max_new_tokens=100,
        ),
        Exam("No call where no tool fits", uncalled_for(200), goal="≥ 90 %", max_new_tokens=100),
        Exam("Answers that state what the tool returned", results(200), goal="≥ 90 %"),
        Exam(
            "Calls of tools that it was not trained on, name and arguments right",
            unseen_calls(100),
            max_new_tokens=100,
        ),
    ]


def usual_calls(count: int) -> list[Question]:
    """A common tool alone or beside others."""
    random = Random("exam/usual tools")
    return [_ask_call(random, _create_usual(random)) for _ in range(count)]


def unseen_calls(count: int) -> list[Question]:
    """A tool that training never lists, alone or beside another one."""
    random = Random("exam/unseen tools")
    return [
        _ask_call(random, create_abilities(random, random.randint(1, 2), HELD_OUT_SKILLS))
        for _ in range(count)
    ]


def uncalled_for(count: int) -> list[Question]:
    """Requests for other tools, listed facts and sums, with tools that serve none of them."""
    random = Random("exam/no call")
    return [_ask_no_call(random, number) for number in range(count)]


def _ask_no_call(random: Random, number: int) -> Question:
    abilities = _create_usual(random)
    if number % 2:
        text = create_unserved_task(random, abilities, held_out=True).request
    elif number % 4:
        a, b = random.choice(held_out_pairs())
        text = random.choice(HELD_OUT_QUESTIONS).format(a=a, b=b)
    else:
        text = random.choice(random.choice(training_facts()).held_out_questions)
    return _ask(random, abilities, [Turn("user", text)], _is_not_called)


def results(count: int) -> list[Question]:
    """A returned call that the answer must use."""
    random = Random("exam/results")
    questions = []
    for _ in range(count):
        abilities = _create_usual(random)
        task = _create_unseen_task(random, abilities[0])
        turns = [Turn("user", task.request), *write_called(task)]
        questions.append(_ask(random, abilities, turns, partial(_shows, task.shown)))
    return questions


def _create_usual(random: Random) -> list[Ability]:
    return create_abilities(random, random.randint(1, 3))


def _create_unseen_task(random: Random, ability: Ability) -> Task:
    return create_task(random, ability, ability.held_out_requests, held_out=True)


def _ask_call(random: Random, abilities: list[Ability]) -> Question:
    """Asks for the first of the tools, which are listed in random order."""
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
    """Tells a text that is exactly the call."""
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
