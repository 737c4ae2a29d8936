"""Abilities: tools with the requests that they serve, the values of these, and results.

Contract: `create_task` makes one request with the call that serves it, the result and the answer
that uses the result. One tenth of a topic's possible arguments is held out: `held_out=True` takes
these, training the others.
"""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from training.listing import pairs_of
from training.tools import Parameter, Tool
from training.values import ERRORS, NUMBERS, Value, sample_value

SLOT = re.compile(r"\{(\d)\}")
# One of ten; with it, some arguments of every tool are held out, however few it has.
HELD_OUT_REMAINDER = 3


@dataclass(frozen=True, slots=True)
class Ability:
    """A tool with wordings; abilities that share one of their `topics` might serve the same
    request.

    `requests`, `held_out_requests` and `subject` name the tool's parameters by position. `kinds`
    gives the kind of each parameter's values, `results` the same for keys of the result. `subject`
    begins the answer; "Done" for a tool without information in its result.
    """

    tool: Tool
    topics: frozenset[str]
    kinds: tuple[str, ...]
    requests: tuple[str, ...]
    held_out_requests: tuple[str, ...]
    subject: str
    results: dict[str, str]


@dataclass(frozen=True, slots=True)
class Task:
    """A request, the call that serves it, the result, and the answer."""

    ability: Ability
    request: str
    arguments: dict[str, object]
    result: str
    shown: tuple[str, ...]  # parts of the result that the answer must contain
    answer: str


def create_parameter(random: Random, name: str, kind: str) -> Parameter:
    """Creates a parameter; a kind "=a,b" is an enum."""
    if kind.startswith("="):
        return Parameter(name, "string", tuple(kind[1:].split(",")))
    number_type = random.choice(("integer", "integer", "number"))
    return Parameter(name, number_type if kind in NUMBERS else "string")


def create_task(
    random: Random, ability: Ability, requests: Sequence[str], held_out: bool = False
) -> Task:
    """Writes a request in one of the wordings `requests`."""
    request = random.choice(requests)
    used = sorted({int(slot) for slot in SLOT.findall(request)})
    while True:
        values = [sample_value(random, kind) for kind in ability.kinds]
        if _is_held_out(ability, [values[i] for i in used]) == held_out:
            break
    parameters = ability.tool.parameters
    arguments: dict[str, object] = {parameters[i].name: values[i] for i in used}
    result, shown, answer = _finish(random, _return(random, ability), ability, values)
    return Task(ability, request.format(*values), arguments, result, shown, answer)


def _is_held_out(ability: Ability, values: list[Value]) -> bool:
    """Tells held-out arguments; they are the same for every tool of a topic, in every run."""
    return zlib.crc32(f"{sorted(ability.topics)} {values}".encode()) % 10 == HELD_OUT_REMAINDER


def _return(random: Random, ability: Ability) -> dict[str, Value]:
    """Creates a tool's result: an error, or some of its keys in their order."""
    if random.random() < 0.05:
        return {"error": random.choice(ERRORS)}
    keys = list(ability.results)
    keys = sorted(random.sample(keys, random.randint(1, len(keys))), key=keys.index)
    return {key: sample_value(random, ability.results[key]) for key in keys}


def _finish(
    random: Random, returned: dict[str, Value], ability: Ability, values: list[Value]
) -> tuple[str, tuple[str, ...], str]:
    """Writes the result as a tool returns it, with the parts that count, and the answer."""
    subject = ability.subject.format(*values)
    shown = tuple(str(value) for value in returned.values())
    if "error" in returned:
        return _encode(returned), shown, f"I am sorry. The tool says: {shown[0]}."
    if len(returned) == 1 and random.random() < 0.6:
        (value,) = returned.values()
        bare = shown[0] if random.random() < 0.5 else _encode({"result": value})
        return bare, shown, _state(subject, shown[0])
    listed = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in returned.items())
    return _encode(returned), shown, f"{subject}: {listed}."


def _encode(returned: dict[str, Value]) -> str:
    return json.dumps(returned, ensure_ascii=False)


def _state(subject: str, value: str) -> str:
    return f"{subject}: {value}." if subject == "Done" else f"{subject} is {value}."


def parse_parameters(text: str) -> dict[str, str]:
    """Parses parameters written as "names: kind" and separated by semicolons."""
    return pairs_of(text) if text else {}
