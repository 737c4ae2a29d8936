"""Wire models of `/v1/decisions`, as OpenAI's client sends and reads them."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from src.api.fields.priority import PriorityField
from src.api.fields.shared import MAX_MESSAGES, MAX_PARTS, ModelName, NoEffect, WireRequest
from src.api.fields.tagged_items import known_types
from src.api.labels import MAX_LABELS
from src.api.openai.fields import PromptCacheKey, SafetyIdentifier
from src.errors import InvalidRequestError

MAX_QUESTIONS = 400
CacheBreakpoint = Annotated[Any, NoEffect("prompt prefixes are cached without it")]


CONTENT_FIELDS = {
    "input_text": "text",
    "output_text": "text",
    "input_json": "data",
    "refusal": "refusal",
}
"""The field of a part that holds its content."""

ITEM_FIELDS: dict[str, tuple[str, ...]] = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": ("call_id", "output"),
}
"""Fields that an item of each type needs."""


def _need(entry: WireRequest, *names: str) -> None:
    """Refuses an entry without one of these fields."""
    for name in names:
        if getattr(entry, name) is None:
            raise PydanticCustomError("missing", "{name} is missing", {"name": name})


def _is_json(data: object) -> bool:
    items = data if isinstance(data, list) else [data]
    return all(isinstance(item, dict) for item in items)


class DecisionPart(WireRequest):
    """Part of a message's content or of a question's instructions."""

    type: Literal["input_text", "output_text", "input_json", "refusal"] = Field(
        description="Texts and JSON; images are not supported."
    )
    text: StrictStr | None = Field(default=None, description="Of a text.")
    refusal: StrictStr | None = Field(default=None, description="Of a refusal.")
    data: Any = Field(default=None, description="Of JSON: an object, or a list of objects.")
    prompt_cache_breakpoint: CacheBreakpoint = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        name = CONTENT_FIELDS[self.type]
        _need(self, name)
        if name == "data" and not _is_json(self.data):
            raise PydanticCustomError(
                "invalid_value", "data must be a JSON object, or a list of objects"
            )
        return self

    def as_text(self) -> str:
        if self.type == "input_json":
            return json.dumps(self.data, ensure_ascii=False)
        return self.text or self.refusal or ""


Parts = Annotated[list[DecisionPart], Field(fail_fast=True, max_length=MAX_PARTS)]
Content = Annotated[
    Parts,
    known_types(
        Parts,
        *CONTENT_FIELDS,
        noun="Part",
        from_text=lambda text: {"type": "input_text", "text": text},
    ),
]


def joined(parts: list[DecisionPart] | None) -> str:
    """Returns the text of parts, one after another."""
    return "\n".join(part.as_text() for part in parts or ())


class DecisionItem(WireRequest):
    """A message, a tool call or a tool's output of the input."""

    type: Literal[
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
    ] = Field(default="message", description="Kind of the item.")
    role: Literal["user", "developer", "system", "assistant"] | None = Field(
        default=None, description="Of a message."
    )
    content: Content | None = Field(default=None, description="Of a message.")
    id: Annotated[StrictStr | None, NoEffect("items are not stored")] = None
    status: Annotated[StrictStr | None, NoEffect("items are not stored")] = None
    call_id: StrictStr | None = Field(default=None, description="Of a call and its output.")
    phase: Annotated[StrictStr | None, NoEffect("all of the input is read alike")] = None
    namespace: Annotated[StrictStr | None, NoEffect("tools are told apart by name")] = None
    name: StrictStr | None = Field(default=None, description="Tool of a call.")
    arguments: StrictStr | None = Field(default=None, description="Of a function's call.")
    input: StrictStr | None = Field(default=None, description="Of a custom tool's call.")
    output: Content | None = Field(default=None, description="Of a call.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        _need(self, *ITEM_FIELDS[self.type])
        return self

    def as_text(self) -> str:
        if self.type == "message":
            return f"{self.role or 'user'}: {joined(self.content)}"
        if self.output is not None:
            return f"output of {self.call_id}: {joined(self.output)}"
        return f"call {self.call_id}: {self.name}({self.arguments or self.input or ''})"


class DecisionChoice(WireRequest):
    """An option of a choice."""

    value: StrictStr | StrictBool = Field(description="Text, true or false; each one once.")
    description: StrictStr | None = Field(default=None, description="Its meaning, for the model.")


class DecisionLevel(WireRequest):
    """A level of a score; the first one counts 0."""

    label: StrictStr = Field(description="Name of the level.")
    description: StrictStr | None = Field(default=None, description="Its meaning, for the model.")


class DecisionQuestion(WireRequest):
    """A question about the input."""

    type: Literal["predicate", "choice", "score"] = Field(
        description="Whether a statement is true, which option fits, or which level."
    )
    name: StrictStr | None = Field(default=None, description="Repeated in the answer.")
    instructions: Content = Field(description="The statement, or the question.")
    choices: list[DecisionChoice] | None = Field(
        fail_fast=True,
        default=None,
        min_length=2,
        max_length=MAX_LABELS,
        description="Options of a choice.",
    )
    levels: list[DecisionLevel] | None = Field(
        fail_fast=True,
        default=None,
        min_length=2,
        max_length=MAX_LABELS,
        description="Levels of a score, in order.",
    )

    def check(self, index: int) -> None:
        """Raises InvalidRequestError if fields are missing or do not belong to the type."""
        for name, kind in (("choices", "choice"), ("levels", "score")):
            is_set = getattr(self, name) is not None
            if is_set != (self.type == kind):
                verb = "needs" if self.type == kind else "takes no"
                raise InvalidRequestError(
                    f"A question of the type {self.type} {verb} {name}.", ("questions", index, name)
                )
        values = [(type(one.value), one.value) for one in self.choices or ()]
        if len(set(values)) != len(values):
            raise InvalidRequestError(
                "Each option can stand there once.", ("questions", index, "choices")
            )

    def options(self) -> list[str]:
        """Returns a line for each option or level, for the model."""
        named = [(_shown(one.value), one.description) for one in self.choices or ()]
        named += [(one.label, one.description) for one in self.levels or ()]
        return [f"{name}: {text}" if text else name for name, text in named]


def _shown(value: str | bool) -> str:
    return value if isinstance(value, str) else str(value).lower()


Items = Annotated[list[DecisionItem], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
ITEM_TYPES = DecisionItem.model_fields["type"].annotation.__args__  # type: ignore[union-attr]


class DecisionRequest(WireRequest):
    """An input and questions about it."""

    model: ModelName
    input: Annotated[
        Items,
        known_types(
            Items,
            *ITEM_TYPES,
            noun="Item",
            from_text=lambda text: {"role": "user", "content": text},
        ),
    ] = Field(description="A text, or messages, tool calls and their outputs.")
    questions: list[DecisionQuestion] = Field(
        fail_fast=True,
        min_length=1,
        max_length=MAX_QUESTIONS,
        description="Each is answered by itself; they share the input in the prefix cache.",
    )
    prompt_cache_key: PromptCacheKey = None
    prompt_cache_options: Annotated[Any, NoEffect("prompt prefixes are cached without it")] = None
    safety_identifier: SafetyIdentifier = None
    priority: PriorityField = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "storyteller",
                    "input": "I was charged twice, please help.",
                    "questions": [
                        {"type": "predicate", "instructions": "The customer complains."},
                        {
                            "type": "choice",
                            "name": "topic",
                            "instructions": "What is it about?",
                            "choices": [{"value": "billing"}, {"value": "delivery"}],
                        },
                    ],
                }
            ]
        }
    )

    def check(self) -> None:
        """Raises InvalidRequestError if an output has no call, or a question is incomplete."""
        calls: set[tuple[str, str | None]] = set()
        for index, item in enumerate(self.input):
            kind = item.type.removesuffix("_output")
            if kind == item.type:
                calls.add((kind, item.call_id))
            elif (kind, item.call_id) not in calls:
                raise InvalidRequestError(
                    f"No {kind} with this call_id comes before its output.",
                    ("input", index, "call_id"),
                )
        for index, question in enumerate(self.questions):
            question.check(index)


class PredicateAnswer(BaseModel):
    """Probability that a statement is true."""

    type: Literal["predicate"] = "predicate"
    name: str | None
    probability: float


class ChoiceProbability(BaseModel):
    """Probability of an option."""

    value: str | bool
    probability: float


class ChoiceAnswer(BaseModel):
    """The most likely option."""

    type: Literal["choice"] = "choice"
    name: str | None
    choice: str | bool
    confidence: float = Field(description="Its probability.")
    probabilities: list[ChoiceProbability]


class LevelProbability(BaseModel):
    """Probability of a level."""

    label: str
    value: int = Field(description="Number of the level, from 0.")
    probability: float


class ScoreDecision(BaseModel):
    """The expected level."""

    type: Literal["score"] = "score"
    name: str | None
    score: float = Field(description="Sum of the levels' numbers times their probabilities.")
    confidence: float = Field(description="Probability of the most likely level.")
    probabilities: list[LevelProbability]


class DecisionInputTokens(BaseModel):
    """Breakdown of the prompts' tokens."""

    cached_tokens: int
    cache_write_tokens: Literal[0] = 0


class DecisionOutputTokens(BaseModel):
    """Breakdown of the new tokens."""

    reasoning_tokens: Literal[0] = 0


class DecisionUsage(BaseModel):
    """Number of tokens, over all questions; each samples one token."""

    input_tokens: int
    input_tokens_details: DecisionInputTokens
    output_tokens: int
    output_tokens_details: DecisionOutputTokens
    total_tokens: int


class DecisionAnswers(BaseModel):
    """Answers in the order of the questions."""

    model: str
    answers: list[PredicateAnswer | ChoiceAnswer | ScoreDecision]
    usage: DecisionUsage
