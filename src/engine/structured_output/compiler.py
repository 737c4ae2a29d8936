"""Compiles grammars with llguidance; refuses malformed, unsupported and too complex ones.

An error names the field of the request and llguidance's reason. Checks come first (`checks/`). A
grammar that passes them can still take unbounded time or memory, or overflow the stack. So this
runs in a process of its own (`worker.py`).
"""

import json
import random
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from src.engine.structured_output.checks.harmless_keywords import without_harmless_keywords
from src.engine.structured_output.checks.lark_checks import LarkError, check_lark
from src.engine.structured_output.checks.regex_size import expanded_size
from src.engine.structured_output.checks.schema_checks import (
    MAX_EXPANDED_SIZE,
    SchemaError,
    check_schema,
    check_structure,
    find_fault,
)
from src.engine.structured_output.checks.schema_walk import close_objects
from src.engine.structured_output.refusals import unusable
from src.engine.structured_output.source import (
    JSON_OPTIONS,
    JSON_SIGN,
    GrammarSource,
)
from src.engine.structured_output.vocabulary import Vocabulary

# With these a step of the lexer or parser takes about 20 ms at most, a grammar's states 50 MB.
LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)

NUM_TRIAL_TOKENS = 8
"""Random tokens that try a grammar out: most that exceed the limits do so at once."""


def compile_grammar(vocabulary: Vocabulary, source: GrammarSource) -> LLMatcher:
    """Returns a matcher in the grammar's start state, to be copied for each sequence.

    The parts of a grammar are compiled first, each by itself, so that errors name their fields.

    Raises:
        InvalidGrammarError: it is malformed, too complex, or not supported.
    """
    for part in source.parts:
        compile_grammar(vocabulary, part)
    compile_source = _compile_schema if source.kind == "json_schema" else _compile_text
    matcher = compile_source(vocabulary, source)
    _try_out(vocabulary, source, matcher.deep_copy())
    return matcher


def _try_out(vocabulary: Vocabulary, source: GrammarSource, matcher: LLMatcher) -> None:
    """Generates a few random tokens, with a fixed seed.

    Raises:
        InvalidGrammarError: the grammar allows no token, or exceeds the limits.
    """
    chooser = random.Random(0)  # noqa: S311 # nosec
    barred = list(vocabulary.layout.special_token_ids - source.special_token_ids)
    for _ in range(NUM_TRIAL_TOKENS):
        if matcher.is_stopped() and matcher.is_accepting():
            return
        is_allowed = np.frombuffer(matcher.compute_logit_bias(), dtype=np.uint8)  # (vocab_size,)
        token_ids = np.setdiff1d(is_allowed.nonzero()[0], barred)
        if matcher.is_error() or not len(token_ids):
            if matcher.is_accepting():
                return
            reason = "No answer fits it, or it is too complex for this server: simplify it."
            raise unusable(source, reason)
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
        raise unusable(source, error.message, error.path) from error
    except (ValueError, RecursionError) as error:
        raise unusable(source, "It is not valid JSON, or is nested too deeply.") from error
    if matcher.is_error():
        path = find_fault(schema, lambda part: _fails(vocabulary, part))
        raise unusable(source, _reason(matcher), path)
    return matcher


def _compile_json(vocabulary: Vocabulary, text: str) -> LLMatcher:
    """Compiles a JSON schema; raises ValueError if the text is not valid JSON."""
    text = LLMatcher.grammar_from_json_schema(text, overrides=JSON_OPTIONS)  # type: ignore[arg-type]
    return _compile(vocabulary, text)


def _fails(vocabulary: Vocabulary, schema: dict[str, Any]) -> bool:
    try:
        return _compile_json(vocabulary, json.dumps(schema)).is_error()
    except ValueError:  # nested too deeply
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
        raise unusable(source, _reason(matcher))
    return matcher


def _with_rewritten_schemas(source: GrammarSource) -> str:
    """Returns the text of a Lark grammar with its JSON schemas rewritten.

    Only grammars of this project have `parts`; there a schema ends its line.
    """
    if not source.parts:
        return source.text
    return "\n".join(map(_rewrite_in_line, source.text.split("\n")))


def _rewrite(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a schema that llguidance can enforce, and that is at least as strict."""
    schema = without_harmless_keywords(schema)
    close_objects(schema)
    return schema


def _rewrite_in_line(line: str) -> str:
    rule, sign, text = line.partition(JSON_SIGN)
    if not sign:
        return line
    return rule + sign + json.dumps(_rewrite(json.loads(text)))


def _check_size(source: GrammarSource) -> None:
    if source.parts or source.special_token_ids:  # written by this project, except for the parts
        return
    if source.kind == "choice":
        size = max(map(len, json.loads(source.text)))
    elif source.kind == "regex":
        size = expanded_size(source.text)
    else:
        try:
            size = check_lark(source.text)
        except LarkError as error:
            raise unusable(source, str(error)) from error
    if size > MAX_EXPANDED_SIZE:
        raise unusable(
            source, f"It expands to {size} characters; the limit is {MAX_EXPANDED_SIZE}."
        )


def _compile(vocabulary: Vocabulary, text: str) -> LLMatcher:
    return LLMatcher(vocabulary.tokens, text, log_level=0, limits=LIMITS)


def _reason(matcher: LLMatcher) -> str:
    """Returns llguidance's error without its notes on details that it leaves out."""
    lines = matcher.get_error().splitlines()
    return "\n".join(line for line in lines if not line.startswith("<non-verbose"))
