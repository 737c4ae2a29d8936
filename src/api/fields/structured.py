"""Conversion of structured-output fields to a `GrammarSource`."""

import json
from collections.abc import Callable

from src.api.fields.bounds import StructuredOutputs
from src.engine.structured_output.source import GrammarSource, schema_source
from src.errors import FieldPath, InvalidRequestError

ANY_OBJECT = {"type": "object"}


def _in_structured_outputs(name: str) -> FieldPath:
    return ("structured_outputs", name)


def structured_source(
    structured: StructuredOutputs, locate: Callable[[str], FieldPath] = _in_structured_outputs
) -> GrammarSource:
    """Returns the grammar of the field `structured_outputs`.

    Args:
        structured: value of the field.
        locate: returns the path of one of its parts in the request, for errors.

    Raises:
        InvalidSchemaError: a schema is not JSON.
    """
    if structured.json_schema is not None:
        return schema_source(structured.json_schema, locate("json"))
    if structured.regex is not None:
        return GrammarSource("regex", structured.regex, locate("regex"))
    if structured.choice is not None:
        return GrammarSource("choice", json.dumps(structured.choice), locate("choice"))
    if structured.grammar is not None:
        return GrammarSource("lark", structured.grammar, locate("grammar"))
    return schema_source(ANY_OBJECT, locate("json_object"))


def only_one(sources: list[GrammarSource]) -> GrammarSource | None:
    """Returns the only grammar of a request; None without one.

    Raises:
        InvalidRequestError: several fields require a format.
    """
    if len(sources) > 1:
        names = " and ".join(str(source.field[0]) for source in sources)
        raise InvalidRequestError(
            f"{names} each set the format of the answer: send one of them.", sources[1].field[:1]
        )
    return sources[0] if sources else None
