"""Base class, markers and shared fields of OpenAI's and Anthropic's requests.

Each field has its effect, or is marked `NoEffect` or `Refused`. Unknown fields are ignored with a
warning, or refused (UNKNOWN_FIELDS). The tables of all fields in docs/openai.md and
docs/anthropic.md are generated from the wire models.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

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
from src.middleware.ignored_fields import ignored_fields

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


class _Anything:
    def __contains__(self, value: object) -> bool:
        return True


ANYTHING: Container[object] = _Anything()

OnlyFalse = Annotated[Literal[False], BeforeValidator(_is_false)]


@dataclass(frozen=True, slots=True)
class NoEffect:
    """Marks a field that is accepted without effect.

    Args:
        why: the reason.
        silent: values for which no answer warns, as what they ask for is so anyway; ANYTHING is
            all of them.
    """

    why: str
    silent: Container[object] = ()

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
    """Base class of requests and their parts; refuses NaN and infinity.

    Unknown fields are left out and recorded while a request is read, and refused otherwise.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    _names: ClassVar[frozenset[str]] = frozenset()
    _without_effect: ClassVar[dict[str, Container[object]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        cls._names = frozenset(fields)
        cls._without_effect = {
            name: mark.silent
            for name, field in fields.items()
            for mark in field.metadata
            if isinstance(mark, NoEffect) and mark.silent is not ANYTHING
        }

    @model_validator(mode="before")
    @classmethod
    def _record_ignored_fields(cls, body: object) -> object:
        has_few_fields(body)
        ignored = ignored_fields()
        if ignored is None or not isinstance(body, dict):
            return body
        for name, silent in cls._without_effect.items():
            value = body.get(name)
            if value is not None and value not in silent:
                ignored.without_effect[name] = None
        if body.keys() <= cls._names or not may_ignore(
            [name for name in body if name not in cls._names]
        ):
            return body
        return {name: value for name, value in body.items() if name in cls._names}


def may_ignore(names: Sequence[str]) -> bool:
    """Records unknown names of the request that is being read; False if they must be refused."""
    ignored = ignored_fields()
    if ignored is None or ignored.refuses_unknown:
        return not names
    ignored.unknown.update(dict.fromkeys(names))
    return True


SentBack = Annotated[list[Any], Field(fail_fast=True, max_length=2**17)]
"""List in an earlier answer that clients send back unread; at most one item for each token."""

SENT_BACK = NoEffect("clients send it back with answers", silent=ANYTHING)
Parsed = Annotated[Any, NoEffect("clients add it to answers, and send it back", silent=ANYTHING)]
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
StrictTool = Annotated[
    StrictBool | None, NoEffect("arguments always follow the schema", silent=ANYTHING)
]
