"""Errors of refused grammars, and the cache of them."""

import pytest

from src.engine.structured_output.refusals import MAX_REASON_LENGTH, RefusalCache, unusable
from src.engine.structured_output.source import GrammarSource
from src.errors import InvalidGrammarError, InvalidSchemaError


def create_source(text: str = "(", **fields: object) -> GrammarSource:
    return GrammarSource("regex", text, **{"field": ("here",)} | fields)


def test_an_error_names_the_kind_of_grammar_and_the_place_in_it():
    schema = GrammarSource("json_schema", "{}", ("a", 1))
    error = unusable(schema, "One line,\n  another one.", ("items",))
    assert isinstance(error, InvalidSchemaError)
    assert str(error) == "This JSON schema cannot be used: One line, another one."
    assert error.field == ("a", 1, "items")


def test_a_long_reason_is_cut():
    error = unusable(create_source(), "x" * 1000)
    assert str(error).count("x") == MAX_REASON_LENGTH


def test_a_cached_error_is_raised_with_the_field_of_the_request():
    cache = RefusalCache(2)
    source = create_source()
    cache.check(source)
    cache.add(source, unusable(source, "bad", ("items",)))
    with pytest.raises(InvalidGrammarError, match="bad") as caught:
        cache.check(create_source(field=("messages", 3)))
    assert caught.value.field == ("messages", 3, "items")


def test_the_oldest_error_is_dropped():
    cache = RefusalCache(2)
    sources = [create_source(text) for text in "(*["]
    for source in sources:
        cache.add(source, unusable(source, "bad"))
    cache.check(sources[0])
    for source in sources[1:]:
        with pytest.raises(InvalidGrammarError):
            cache.check(source)


def test_a_fault_in_a_part_is_not_cached():
    part = GrammarSource("json_schema", "[]", ("tools", 0))
    cache = RefusalCache(2)
    source = create_source(parts=(part,))
    cache.add(source, unusable(part, "bad"))
    cache.check(source)
