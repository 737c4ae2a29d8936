"""Field of one or several prompts, each a text or token ids."""

from functools import partial
from typing import Annotated, Any

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from src.text.tokenization import Prompt

MAX_TOKEN_IDS = 2**20
"""Maximum number of token ids of a prompt; more than any model's context."""

TokenIds = Annotated[list[int], Field(min_length=1, max_length=MAX_TOKEN_IDS)]


def prompts_up_to(max_prompts: int) -> PlainValidator:
    """Returns a validator that accepts one prompt or a list of prompts, and returns a list."""
    return PlainValidator(
        partial(_parse_prompts, max_prompts=max_prompts),
        json_schema_input_type=str
        | TokenIds
        | Annotated[list[str | TokenIds], Field(min_length=1, max_length=max_prompts)],
    )


def _parse_prompts(value: Any, max_prompts: int) -> list[Prompt]:
    if isinstance(value, str) or _is_token_ids(value):
        value = [value]
    if not isinstance(value, list) or not 0 < len(value) <= max_prompts:
        raise PydanticCustomError(
            "invalid_value",
            "It must be a text, a list of token ids, or a list of 1 to {count} of either kind",
            {"count": max_prompts},
        )
    for index, prompt in enumerate(value):
        if not (isinstance(prompt, str) or _is_token_ids(prompt)):
            raise PydanticCustomError(
                "invalid_value",
                "Item {index} is neither a text nor a list of token ids",
                {"index": index},
            )
    return value


def _is_token_ids(value: object) -> bool:
    """Returns True for a non-empty list of integers; bools do not count as integers."""
    if not isinstance(value, list) or not 0 < len(value) <= MAX_TOKEN_IDS:
        return False
    return type(value[0]) is int and set(map(type, value)) == {int}
