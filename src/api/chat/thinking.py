"""Request fields about thinking, resolved for the served model; shared by all chat APIs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from src.api.fields.bounds import has_up_to
from src.core.thinking import Thinking, ThinkingSupport
from src.errors import FieldPath, InvalidRequestError
from src.text.chat_template import Scalar
from src.text.reasoning import SWITCHES

MAX_VARIABLES = 16
MAX_VALUE_LENGTH = 4096

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORT = "reasoning_effort"


def _check_scalars(value: object) -> object:
    for name, item in value.items() if isinstance(value, dict) else ():
        is_scalar = item is None or isinstance(item, bool | int | float | str)
        if isinstance(item, str) and len(item) > MAX_VALUE_LENGTH:
            is_scalar = False
        if isinstance(item, float) and not math.isfinite(item):
            is_scalar = False
        if not is_scalar:
            raise PydanticCustomError(
                "invalid_value",
                "{name} must be true, false, null, a number or a text of up to {length} characters",
                {"name": str(name)[:64], "length": MAX_VALUE_LENGTH},
            )
    return value


TemplateVariables = Annotated[
    dict[str, Any],
    BeforeValidator(
        _check_scalars, json_schema_input_type=dict[str, bool | int | float | str | None]
    ),
    BeforeValidator(has_up_to(MAX_VARIABLES, "variables")),
]
VARIABLES = "Extension: values of variables that the chat template reads; others are refused."


@dataclass(frozen=True, slots=True)
class ThinkingOptions:
    """Choices of a request about thinking, in the words of no API.

    Args:
        is_enabled: None leaves it to the server.
        effort: level that some templates read; `none` turns thinking off, others on.
        budget: maximum number of tokens of the thought.
        variables: `chat_template_kwargs`.
        level: level that some templates read, which turns thinking neither on nor off.
        insisted: field by which the request insists on thinking: it is refused if the model cannot.
    """

    is_enabled: bool | None = None
    effort: Effort | None = None
    budget: int | None = None
    variables: Mapping[str, Scalar] = field(default_factory=dict)
    level: Effort | None = None
    insisted: FieldPath | None = None


def resolve(options: ThinkingOptions, support: ThinkingSupport) -> Thinking:
    """Returns the choices for the served model, with the server's defaults.

    Raises:
        InvalidRequestError: they contradict each other, the model cannot think, or the template
            does not read a variable.
    """
    variables = dict(options.variables)
    switched = _take_switch(variables, support)
    is_enabled = _agreed(options, switched)
    can_think = support.reasoning is not None or support.switch is not None
    insisted = options.insisted or (("chat_template_kwargs",) if switched else None)
    if insisted is not None and not can_think:
        raise InvalidRequestError(
            "This model has no thinking mode that its chat template shows: leave it out.", insisted
        )
    _check_variables(variables, support)
    if is_enabled is None:
        is_enabled = support.is_enabled
    if support.switch is not None and is_enabled is not None:
        variables[support.switch] = is_enabled
    level = options.level or options.effort
    if level not in (None, "none") and EFFORT in support.variables:
        variables.setdefault(EFFORT, level)
    return Thinking(is_enabled, support.switch is not None, options.budget, variables)


def _take_switch(variables: dict[str, Scalar], support: ThinkingSupport) -> bool | None:
    """Removes the variable that turns thinking on or off, and returns its value."""
    name = support.switch if support.switch in variables else SWITCHES[0]
    if name not in variables:
        return None
    value = variables.pop(name)
    if not isinstance(value, bool | None):
        raise InvalidRequestError("It must be true or false.", ("chat_template_kwargs", name))
    return value


def _agreed(options: ThinkingOptions, switched: bool | None) -> bool | None:
    """Returns the choice that all fields agree on; None if no field chooses."""
    by_effort = None if options.effort is None else options.effort != "none"
    choices = {options.is_enabled, switched, by_effort} - {None}
    if len(choices) > 1:
        raise InvalidRequestError(
            "Fields of the request turn thinking on and off at once (enable_thinking, thinking,"
            " reasoning_effort, chat_template_kwargs): send one of them.",
            ("chat_template_kwargs",) if switched is not None else (EFFORT,),
        )
    return choices.pop() if choices else None


def _check_variables(variables: Mapping[str, Scalar], support: ThinkingSupport) -> None:
    for name in variables:
        if name not in support.variables:
            known = ", ".join(sorted(support.variables)) or "none"
            raise InvalidRequestError(
                f"The chat template does not read this variable; it reads: {known}.",
                ("chat_template_kwargs", name),
            )
