"""Thinking: a request's choices, what the model supports, and the thought that follows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from src.engine.thought import ThoughtParams
from src.text.chat_template import Scalar
from src.text.reasoning import (
    NUM_TAIL_TOKENS,
    ReasoningFormat,
    ThoughtStart,
    find_reasoning_format,
    find_switch,
)
from src.text.tokenization import TextCodec


@dataclass(frozen=True, slots=True)
class ThinkingSupport:
    """Thinking mode of the served model.

    Args:
        reasoning: format of the thoughts; None if answers have none that could be split off.
        switch: the chat template's variable that turns thinking on or off; None without one.
        variables: all variables of the chat template that a request may set.
        is_enabled: ENABLE_THINKING.
    """

    reasoning: ReasoningFormat | None = None
    switch: str | None = None
    variables: frozenset[str] = frozenset()
    is_enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class Thinking:
    """Resolved choices of a request about thinking.

    Args:
        is_enabled: None leaves it to the chat template.
        has_switch: the chat template turns thinking on or off by a variable.
        budget: maximum number of tokens of the thought; None is no limit.
        variables: values of variables that the chat template reads.
    """

    is_enabled: bool | None = None
    has_switch: bool = False
    budget: int | None = None
    variables: Mapping[str, Scalar] = field(default_factory=dict)


def thinking_support(
    codec: TextCodec, format_name: str, is_enabled: bool | None
) -> ThinkingSupport:
    """Returns the thinking mode that a chat template shows.

    Args:
        codec: holds the chat template.
        format_name: REASONING_FORMAT.
        is_enabled: ENABLE_THINKING.
    """
    template = codec.chat_template
    if template is None:
        return ThinkingSupport()
    reasoning = find_reasoning_format(template, format_name)
    return ThinkingSupport(reasoning, find_switch(template), template.variables, is_enabled)


def thought_params(
    reasoning: ReasoningFormat | None,
    codec: TextCodec,
    prompt_token_ids: list[int],
    thinking: Thinking,
) -> ThoughtParams | None:
    """Returns the thought of an answer; None if the prompt has turned thinking off.

    Without a switch in the template, a thought that must not be ends at once, by its budget.

    Args:
        reasoning: the model's format; None without one.
        codec: decodes the prompt's last tokens.
        prompt_token_ids: the prompt.
        thinking: choices of the request.
    """
    if reasoning is None:
        return None
    tail = prompt_token_ids[-NUM_TAIL_TOKENS:]
    start = reasoning.start_after(codec.tokenizer.decode(tail, skip_special_tokens=False))
    if start is ThoughtStart.NONE:
        return None
    must_begin = thinking.has_switch and thinking.is_enabled is True
    return ThoughtParams(
        begin=reasoning.begin,
        end=reasoning.end,
        begin_ids=reasoning.begin_ids,
        end_ids=reasoning.end_ids,
        special_token_ids=reasoning.special_token_ids,
        is_open=start is ThoughtStart.OPEN,
        must_begin=start is ThoughtStart.POSSIBLE and must_begin,
        budget=0 if thinking.is_enabled is False else thinking.budget,
    )
