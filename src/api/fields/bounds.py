"""Types and bounds of request fields that control generation, shared by all APIs.

Each API chooses the fields of its requests, their names and their defaults.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from src.engine.logprobs import LogprobsMode

MAX_FIELDS = 64
MAX_CHOICES = 2**16
"""Maximum number of texts in `choice`: as many as fit the default of MAX_GRAMMAR_BYTES."""
MAX_BIASES = 1024
MAX_METADATA = 16
"""OpenAI's maximum number of entries; keys have up to 64 characters and values up to 512."""
MAX_LOGPROBS = 20
MAX_TOKENS = 2**31 - 1
MAX_SEED = 9_223_372_036_854_776_000
"""2**63 as a double, rounded up, since /openapi.json holds bounds as doubles."""

Temperature = Annotated[StrictFloat, Field(ge=0, le=2)]
TopP = Annotated[StrictFloat, Field(gt=0, le=1)]
MinP = Annotated[StrictFloat, Field(ge=0, le=1)]
RepetitionPenalty = Annotated[StrictFloat, Field(gt=0, le=10)]
Penalty = Annotated[StrictFloat, Field(ge=-2, le=2)]
Seed = Annotated[StrictInt, Field(ge=-MAX_SEED, le=MAX_SEED)]
NumTokens = Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)]
Count = Annotated[StrictInt, Field(ge=0, le=MAX_TOKENS)]
NumLogprobs = Annotated[StrictInt, Field(ge=0, le=MAX_LOGPROBS)]
LogprobsModeField = Annotated[
    LogprobsMode | None,
    Field(
        description="Values to report for tokens: `raw_logprobs`, the default, are the model's own;"
        " `processed_logprobs` those after penalties, bias, grammar, temperature and filters;"
        " `raw_logits` and `processed_logits` likewise, without the softmax. Impossible tokens have"
        " -9999."
    ),
]
StopTokenIds = Annotated[
    list[Annotated[StrictInt, Field(ge=0)]], Field(fail_fast=True, max_length=64)
]


def has_up_to(max_entries: int, noun: str) -> Callable[[object], object]:
    """Returns a validator of an object's size that runs before its entries are validated.

    pydantic checks a dict's length after its entries, and collects an error for each of them.

    Args:
        max_entries: maximum number of entries.
        noun: word for the entries in the error, in the plural.
    """
    return partial(_check_size, max_entries=max_entries, noun=noun)


def _check_size(value: object, max_entries: int, noun: str) -> object:
    if isinstance(value, dict) and len(value) > max_entries:
        raise PydanticCustomError(
            "too_long", "There are at most {count} {noun}", {"count": max_entries, "noun": noun}
        )
    return value


TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,99}")


def _token_id(key: object) -> object:
    """Refuses keys that are not plain digits; pydantic would accept " 5" and "1_0" too."""
    if isinstance(key, str) and not TOKEN_ID.fullmatch(key):
        raise PydanticCustomError("token_id", "A key must be a token id in digits")
    return key


TokenId = Annotated[
    int,
    Field(ge=0),
    BeforeValidator(
        _token_id, json_schema_input_type=Annotated[str, Field(pattern=f"^({TOKEN_ID.pattern})$")]
    ),
]
LogitBias = Annotated[
    dict[TokenId, Annotated[StrictFloat, Field(ge=-100, le=100)]],
    Field(max_length=MAX_BIASES, json_schema_extra={"additionalProperties": False}),
    BeforeValidator(has_up_to(MAX_BIASES, "biases")),
]
Metadata = Annotated[
    dict[Annotated[StrictStr, Field(max_length=64)], Annotated[StrictStr, Field(max_length=512)]],
    Field(max_length=MAX_METADATA),
    BeforeValidator(has_up_to(MAX_METADATA, "entries")),
]
# Maxima of the settings MAX_STOP_TEXTS and MAX_STOP_LENGTH, which hold the actual limits.
MAX_STOP_TEXTS = 256
StopText = Annotated[StrictStr, Field(min_length=1, max_length=1024)]
StopTextList = Annotated[list[StopText], Field(fail_fast=True, max_length=MAX_STOP_TEXTS)]
StopTexts = Annotated[
    StopTextList,
    BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value,
        json_schema_input_type=StopText | StopTextList,
    ),
]


Choices = Annotated[
    list[Annotated[StrictStr, Field(min_length=1)]],
    Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES),
]
JsonSchema = dict[str, Any] | StrictStr
"""JSON schema, as an object or as JSON text."""


def has_few_fields(body: object) -> object:
    """Refuses bodies with many fields, since the answer lists a problem for each unknown one.

    Raises:
        PydanticCustomError: the body has more than MAX_FIELDS fields.
    """
    if isinstance(body, dict) and len(body) > MAX_FIELDS:
        raise PydanticCustomError("too_many_fields", f"There are at most {MAX_FIELDS} fields")
    return body


class StructuredOutputs(BaseModel):
    """Required format of the answer, as in vLLM: exactly one of these fields."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    json_schema: JsonSchema | None = Field(
        default=None, alias="json", description="JSON that this schema allows."
    )
    regex: StrictStr | None = Field(
        default=None,
        min_length=1,
        description="A text that this regular expression matches as a whole.",
    )
    choice: Choices | None = Field(default=None, description="One of these texts.")
    grammar: StrictStr | None = Field(
        default=None,
        min_length=1,
        description="A text of this context-free grammar, in llguidance's variant of Lark.",
    )
    json_object: StrictBool | None = Field(default=None, description="Any JSON object.")

    _has_few_fields = model_validator(mode="before")(has_few_fields)

    @model_validator(mode="after")
    def _has_one_field(self) -> Self:
        values = [getattr(self, name) for name in type(self).model_fields]
        if sum(value not in (None, False) for value in values) != 1:
            raise PydanticCustomError(
                "invalid_value", "Send exactly one of json, regex, choice, grammar, json_object"
            )
        return self
