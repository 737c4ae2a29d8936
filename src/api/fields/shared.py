"""Base class, markers and shared fields of OpenAI's and Anthropic's requests.

Each field has its effect, or is marked `NoEffect` or `Refused`; unknown fields are refused. The
tables of all fields in docs/openai.md and docs/anthropic.md are generated from the wire models.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StrictBool,
    StrictStr,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from src.api.fields.bounds import Temperature, TopP, has_few_fields

MAX_MESSAGES = 2048
MAX_PARTS = 2048
"""Maximum number of parts in a message's content."""
MAX_TOOLS = 128
MAX_MODEL_NAME = 4096


def _is_false(value: object) -> object:
    """Refuses 0, which equals False in Python but not in JSON."""
    if value is not False and value is not None:
        raise PydanticCustomError("literal_error", "Input should be false")
    return value


OnlyFalse = Annotated[Literal[False], BeforeValidator(_is_false)]


@dataclass(frozen=True, slots=True)
class NoEffect:
    """Marks a field that is accepted without effect, and gives the reason."""

    why: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"description": f"Accepted without effect: {self.why}"}


@dataclass(frozen=True, slots=True)
class Refused:
    """Marks a field that is refused by name, and gives the reason; null is accepted."""

    why: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"description": f"Refused: {self.why}"}

    def _check(self, value: object) -> object:
        if value is not None:
            raise PydanticCustomError(
                "unsupported_parameter", "It is not supported: {why}", {"why": self.why}
            )
        return value


class WireRequest(BaseModel):
    """Base class of requests and their parts; refuses unknown fields, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    _has_few_fields = model_validator(mode="before")(has_few_fields)


SentBack = Annotated[list[Any], Field(fail_fast=True, max_length=2**17)]
"""List in an earlier answer that clients send back unread; at most one item for each token."""

SENT_BACK = "clients send it back with answers"
Parsed = Annotated[Any, NoEffect("clients add it to answers, and send it back")]
"""Parsed text of an answer, which OpenAI's clients add to it."""

RANDOMNESS = "Sampling temperature; 0 is greedy. Default: TEMPERATURE, then the model's, then 1."
NUCLEUS = (
    "Sample among the most likely tokens whose probabilities add up to this. Default: TOP_P, then"
    " the model's, then 1."
)

ModelName = Annotated[
    StrictStr,
    Field(
        pattern=r"^[^\x00]*$",
        max_length=MAX_MODEL_NAME,
        description="The served model, as /v1/models names it.",
    ),
]
TemperatureField = Annotated[Temperature | None, Field(description=RANDOMNESS)]
TopPField = Annotated[TopP | None, Field(description=NUCLEUS)]

# Fields of tools that several APIs share.
FunctionName = Annotated[
    StrictStr,
    Field(
        pattern=r"^[a-zA-Z0-9_.-]{1,128}$",
        description="Letters, digits, `_`, `-` and `.`, at most 128.",
    ),
]
ToolDescription = Annotated[StrictStr | None, Field(description="What it does, for the model.")]
StrictTool = Annotated[StrictBool | None, NoEffect("arguments always follow the schema")]
