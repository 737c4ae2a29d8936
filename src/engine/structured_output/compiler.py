"""Compiles grammars, and refuses those that are malformed, unsupported, or too much work.

A refusal names the place in the request, and llguidance's reason, which speaks of the grammar
alone. Linear checks come first. What passes them can still take any time, any memory, or end the
process by a stack overflow: so this runs in a process of its own (`worker.py`).
"""

import json
import random
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from src.engine.structured_output.harmless_keywords import without_harmless_keywords
from src.engine.structured_output.lark_checks import LarkError, check_lark
from src.engine.structured_output.regex_size import expanded_size
from src.engine.structured_output.schema_checks import (
    MAX_EXPANDED_SIZE,
    SchemaError,
    check_schema,
    check_structure,
    find_fault,
)
from src.engine.structured_output.schema_walk import Path, close_objects
from src.engine.structured_output.source import (
    JSON_OPTIONS,
    JSON_SIGN,
    GrammarSource,
)
from src.engine.structured_output.vocabulary import Vocabulary
from src.errors import InvalidGrammarError, InvalidSchemaError

# A step of the lexer or the parser takes some 20 ms at most, a grammar's states some 50 MB.
LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)

NUM_TRIAL_TOKENS = 8
"""Random tokens that a grammar is tried with: most that exceed the limits do so at once."""

MAX_MESSAGE_LENGTH = 300


def compile_grammar(vocabulary: Vocabulary, source: GrammarSource) -> LLMatcher:
    """Returns a matcher at the grammar's beginning, to be copied for each sequence.

    The parts of a grammar are compiled first, each by itself, for errors that name their place.

    Raises:
        InvalidGrammarError: it is malformed, too complex, or not supported; with its place.
    """
    for part in source.parts:
        compile_grammar(vocabulary, part)
    compile_source = _compile_schema if source.kind == "json_schema" else _compile_text
    matcher = compile_source(vocabulary, source)
    _try_out(vocabulary, source, matcher.deep_copy())
    return matcher


def _try_out(vocabulary: Vocabulary, source: GrammarSource, matcher: LLMatcher) -> None:
    """Takes a few random tokens, the same ones each time."""
    chooser = random.Random(0)  # noqa: S311 # nosec
    barred = list(vocabulary.layout.special_token_ids - source.special_token_ids)
    for _ in range(NUM_TRIAL_TOKENS):
        if matcher.is_stopped() and matcher.is_accepting():
            return
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")
        allowed[barred] = 0
        token_ids = allowed.nonzero()[0]
        if matcher.is_error() or not len(token_ids):
            if matcher.is_accepting():
                return
            reason = "There is no answer to it, or it is too complex for this server."
            raise _refusal(source, reason)
        matcher.consume_token(int(chooser.choice(token_ids)))


def _compile_schema(vocabulary: Vocabulary, source: GrammarSource) -> LLMatcher:
    try:
        schema = json.loads(source.text)
        if not isinstance(schema, dict):
            raise SchemaError("A schema must be an object.", ())
        check_structure(schema)
        schema = _rewrite(schema)
        matcher = _compile_json(vocabulary, json.dumps(schema))
        check_schema(schema)
    except SchemaError as error:
        raise _refusal(source, error.message, error.path) from error
    except (ValueError, RecursionError) as error:
        raise _refusal(source, "It is no JSON, or nested too deep.") from error
    if matcher.is_error():
        path = find_fault(schema, lambda part: _fails(vocabulary, part))
        raise _refusal(source, matcher.get_error(), path)
    return matcher


def _compile_json(vocabulary: Vocabulary, text: str) -> LLMatcher:
    """Raises ValueError if the text is no JSON that can be read."""
    text = LLMatcher.grammar_from_json_schema(text, overrides=JSON_OPTIONS)  # type: ignore[arg-type]
    return _compile(vocabulary, text)


def _fails(vocabulary: Vocabulary, schema: dict[str, Any]) -> bool:
    try:
        return _compile_json(vocabulary, json.dumps(schema)).is_error()
    except ValueError:  # it has become too deep
        return False


def _compile_text(vocabulary: Vocabulary, source: GrammarSource) -> LLMatcher:
    _check_size(source)
    match source.kind:
        case "regex":
            text = LLMatcher.grammar_from_regex(source.text)
        case "choice":
            choices = " | ".join(json.dumps(choice) for choice in json.loads(source.text))
            text = LLMatcher.grammar_from_lark(f"start: {choices}")
        case _:
            text = LLMatcher.grammar_from_lark(_with_rewritten_schemas(source))
    matcher = _compile(vocabulary, text)
    if matcher.is_error():
        raise _refusal(source, matcher.get_error())
    return matcher


def _with_rewritten_schemas(source: GrammarSource) -> str:
    """The text of a grammar in Lark; schemas that we have written into it end their lines."""
    return (
        "\n".join(map(_rewrite_in_line, source.text.split("\n"))) if source.parts else source.text
    )


def _rewrite(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a schema as the compiler can keep it; it allows no value that it did not."""
    schema = without_harmless_keywords(schema)
    close_objects(schema)
    return schema


def _rewrite_in_line(line: str) -> str:
    rule, sign, text = line.partition(JSON_SIGN)
    if not sign:
        return line
    return rule + sign + json.dumps(_rewrite(json.loads(text)))


def _check_size(source: GrammarSource) -> None:
    if source.parts or source.special_token_ids:  # all but the parts is written by this project
        return
    if source.kind == "choice":
        size = max(map(len, json.loads(source.text)))
    elif source.kind == "regex":
        size = expanded_size(source.text)
    else:
        try:
            size = check_lark(source.text)
        except LarkError as error:
            raise _refusal(source, str(error)) from error
    if size > MAX_EXPANDED_SIZE:
        raise _refusal(
            source, f"It stands for {size} characters; the limit is {MAX_EXPANDED_SIZE}."
        )


def _compile(vocabulary: Vocabulary, text: str) -> LLMatcher:
    return LLMatcher(vocabulary.tokens, text, log_level=0, limits=LIMITS)


def _refusal(source: GrammarSource, reason: str, path: Path = ()) -> InvalidGrammarError:
    kind = InvalidSchemaError if source.kind == "json_schema" else InvalidGrammarError
    lines = [line.strip() for line in reason.splitlines() if not line.startswith("<non-verbose")]
    message = " ".join(lines)[:MAX_MESSAGE_LENGTH]
    return kind(f"Answers cannot be shaped by this: {message}", (*source.field, *path))
