"""An ability is a tool with the requests that it serves, the values they mention and its results.

Contract: `create_task` makes one request with the call that serves it, the result and the answer
that uses the result; arguments and results never hold a pair of summands that is held out.
"""

import json
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from training.listing import pairs_of
from training.sums import HELD_OUT_PAIRS
from training.tools import Parameter, Tool
from training.values import ERRORS, NUMBER_TYPES, Value, sample_value

# Results that follow from both arguments.
COMPUTED: dict[str, Callable[[int, int], int]] = {
    "sum": operator.add,
    "product": operator.mul,
    "difference": operator.sub,
}
SLOT = re.compile(r"\{(\d)\}")


@dataclass(frozen=True, slots=True)
class Ability:
    """Abilities that share one of their `topics` might serve the same request.

    `requests`, `held_out_requests` and `subject` name the tool's parameters by position.

    `kinds` says how each parameter's values are made, `results` the same for keys of the result.
    `subject` begins the answer; "Done" where the tool does something and tells nothing.
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
    """What is asked, the call that serves it, what comes back, and the answer."""

    ability: Ability
    request: str
    arguments: dict[str, object]
    result: str
    shown: tuple[str, ...]  # what the answer has to show of the result
    answer: str


def create_parameter(random: Random, name: str, kind: str) -> Parameter:
    """A parameter; a kind "=a,b" is an enum."""
    if kind.startswith("="):
        return Parameter(name, "string", tuple(kind[1:].split(",")))
    number_type = NUMBER_TYPES.get(kind, "string")
    is_loose = number_type == "integer" and random.random() < 0.3
    return Parameter(name, "number" if is_loose else number_type)


def create_task(
    random: Random, ability: Ability, requests: Sequence[str], held_out: bool = False
) -> Task:
    """A request in one of the wordings `requests`, with values that are new or may be known."""
    while True:
        values = [_sample(random, ability, index, held_out) for index in range(len(ability.kinds))]
        if not _is_held_out_pair(values):
            break
    request = random.choice(requests)
    spelled = [_spell(value) for value in values]
    used = {int(slot) for slot in SLOT.findall(request)}
    parameters = ability.tool.parameters
    arguments = {p.name: values[i] for i, p in enumerate(parameters) if i in used}
    returned = _return(random, ability, values, held_out)
    result, shown, answer = _finish(random, returned, ability.subject.format(*spelled))
    return Task(ability, request.format(*spelled), arguments, result, shown, answer)


def _sample(random: Random, ability: Ability, index: int, held_out: bool) -> Value:
    enum = ability.tool.parameters[index].enum
    return random.choice(enum) if enum else sample_value(random, ability.kinds[index], held_out)


def _is_held_out_pair(values: list[Value]) -> bool:
    numbers = sorted(value for value in values if type(value) is int)
    return len(numbers) == 2 and tuple(numbers) in HELD_OUT_PAIRS


def _spell(value: Value) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _return(
    random: Random, ability: Ability, values: list[Value], held_out: bool
) -> dict[str, Value]:
    """What the tool finds: an error, or one to three of its keys in their order."""
    if random.random() < 0.05:
        return {"error": random.choice(ERRORS)}
    keys = list(ability.results)
    keys = sorted(random.sample(keys, random.randint(1, min(3, len(keys)))), key=keys.index)
    return {key: _find(random, ability.results[key], values, held_out) for key in keys}


def _find(random: Random, kind: str, values: list[Value], held_out: bool) -> Value:
    """A value of a result: computed from the arguments, or any."""
    if kind not in COMPUTED:
        return sample_value(random, kind, held_out)
    a, b = values
    assert isinstance(a, int)
    assert isinstance(b, int)
    return COMPUTED[kind](a, b)


def _finish(
    random: Random, returned: dict[str, Value], subject: str
) -> tuple[str, tuple[str, ...], str]:
    """The result as a tool writes it, the parts of it that count, and what is answered."""
    spelled = {k: json.dumps(v) if isinstance(v, bool) else str(v) for k, v in returned.items()}
    shown = tuple(spelled.values())
    if "error" in returned:
        return _encode(returned), shown, f"I am sorry. The tool says: {shown[0]}."
    if len(returned) == 1 and random.random() < 0.6:
        (value,) = returned.values()
        bare = shown[0] if random.random() < 0.5 else _encode({"result": value})
        return bare, shown, _state(subject, shown[0])
    listed = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in spelled.items())
    return _encode(returned), shown, f"{subject}: {listed}."


def _encode(returned: dict[str, Value]) -> str:
    return json.dumps(returned, ensure_ascii=False)


def _state(subject: str, value: str) -> str:
    return f"{subject}: {value}." if subject == "Done" else f"{subject} is {value}."


def parse_parameters(text: str) -> dict[str, str]:
    """Parameters written as "names: kind" and separated by semicolons."""
    return pairs_of(text) if text else {}
