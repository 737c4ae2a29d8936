"""The table of faults: what is sent or breaks, the test that does it, and what it was answered.

Each test hands what it found to `measured`, which holds it against `answers.json`; from both files
`python -m docs.generate` makes the table of docs/reliability.md. When answers are meant to change,
`FAULTS=write python -m pytest tests/faults` writes them anew.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ANSWERS = FOLDER / "answers.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One fault, and where the test is that shows what becomes of it."""

    number: int
    fault: str
    module: str
    test: str


def _rows(module: str, *rows: tuple[int, str, str]) -> list[Row]:
    return [Row(number, fault, module, f"test_{test}") for number, fault, test in rows]


# Group of faults: its rows.
GROUPS: dict[str, list[Row]] = {
    "Bodies": _rows(
        "test_bodies",
        (1, "a body that is no JSON object", "a_body_that_is_not_an_object"),
        (2, "a form, multipart, gzip", "a_body_that_is_not_json"),
        (3, "a Content-Length of 10 GB", "a_length_that_is_too_large"),
        (4, "chunks without end", "chunks_without_end"),
        (5, "20,000 levels of JSON", "thousands_of_json_levels"),
        (6, "an integer of 5,000 digits", "thousands_of_digits"),
        (7, "numbers that JSON does not have, or no computer", "invalid_numbers"),
        (8, "half a surrogate pair", "half_a_surrogate_pair"),
        (9, "bytes that are no UTF-8", "invalid_utf8"),
        (10, "a NUL", "a_nul"),
        (11, "an unknown field, a field twice", "unknown_fields_and_repeated_fields"),
    ),
    "HTTP": _rows(
        "test_http",
        (12, "an unknown path, a wrong method", "unknown_paths_and_methods"),
        (13, "20,000 random paths", "random_paths"),
        (15, "two lengths at once, a broken chunk", "request_smuggling"),
        (16, "a byte now and then", "clients_that_are_slow"),
        (17, "100 KB of headers", "headers_that_are_too_large"),
    ),
    "Access and limits": _rows(
        "test_access",
        (14, "a Host or a target that looks like a public path", "forged_hosts_and_targets"),
        (18, "no key, a wrong key", "no_key_and_a_wrong_one"),
        (19, "keys that are nothing like one", "odd_keys"),
        (20, "tokens that are forged, expired, or for others", "forged_tokens"),
        (21, "a key that may not do this", "a_key_without_the_scope"),
        (22, "more requests than allowed", "more_requests_than_allowed"),
        (23, "another X-Forwarded-For each time", "forged_addresses"),
        (24, "a flood of wrong keys", "a_flood_of_wrong_keys"),
        (25, "Redis refuses, or does not answer", "redis_gone_or_silent"),
    ),
    "What requests ask for": _rows(
        "test_requests",
        (26, "an unknown model", "an_unknown_model"),
        (27, "chats that are none", "invalid_conversations"),
        (28, "more tokens than the context has", "more_than_the_context"),
        (29, "a max_tokens that is no count", "an_invalid_max_tokens"),
        (30, "10^9 answers, more than wait, more tokens than a key has", "too_many_answers"),
        (31, "sampling out of bounds", "sampling_out_of_bounds"),
        (32, "fewer tokens at most than at least", "max_tokens_below_min_tokens"),
        (33, "stop texts: empty, 1,000, 1 MB, new ones each time", "stop_texts"),
        (34, "tokens that are none, a million log-probabilities", "invalid_token_ids"),
        (35, "patterns that explode, schemas that refer to themselves", "grammars_that_explode"),
        (36, "a chat template of the client's", "templates_of_the_client"),
        (37, "text that spells a special token", "text_that_spells_a_special_token"),
        (38, "a megabyte of one letter or of spaces", "a_megabyte_of_one_letter"),
        (39, "images at addresses inside, or in files", "images_by_address"),
    ),
    "Clients that leave, read slowly, or come in crowds": _rows(
        "test_readers",
        (40, "the client leaves: queued, in its prompt, in its answer", "clients_that_leave"),
        (41, "the client stops reading", "a_client_that_stops_reading"),
        (42, "an emoji split between tokens, or cut", "emoji_in_pieces"),
        (43, "the model raises at the fifth token", "a_model_that_raises_in_a_stream"),
        (44, "the queue is full, or one waits too long in it", "a_queue_that_is_full"),
    ),
    "What breaks inside": _rows(
        "test_failures",
        (45, "no memory for a step", "no_memory_for_a_step"),
        (46, "the engine's thread dies, or hangs", "an_engine_that_dies_or_hangs"),
        (47, "the model still loads", "a_model_that_still_loads"),
        (48, "SIGTERM in the middle of streams", "a_signal_in_the_middle_of_streams"),
        (49, "a request delivered twice at once", "a_request_that_comes_twice"),
        (50, "an exception that nobody foresaw", "an_unforeseen_exception"),
    ),
}


def measured(number: int, found: dict[str, str]) -> None:
    """Holds what a test found, case by case, against what the table says."""
    answers = json.loads(ANSWERS.read_text()) if ANSWERS.exists() else {}
    if os.environ.get("FAULTS") == "write":
        answers = {str(number): found} | answers | {str(number): found}
        ordered = {key: answers[key] for key in sorted(answers, key=int)}
        ANSWERS.write_text(json.dumps(ordered, indent=2, ensure_ascii=False) + "\n")
    assert found == answers.get(str(number))


def faults_table() -> str:
    """The tables of docs/reliability.md, one for each group."""
    answers = json.loads(ANSWERS.read_text())
    parts = []
    for group, rows in GROUPS.items():
        lines = [
            f"| {row.number} | {row.fault} | {_told(answers[str(row.number)])} |"
            f" [{row.test.removeprefix('test_')}](../tests/faults/{row.module}.py) |"
            for row in rows
        ]
        head = ["| | fault | answer | test |", "|---|---|---|---|"]
        parts.append(f"### {group}\n\n" + "\n".join([*head, *lines]) + "\n")
    return "\n".join(parts)


def _told(found: dict[str, str]) -> str:
    """Cases with the same answer are told together."""
    cases: dict[str, list[str]] = {}
    for case, answer in found.items():
        cases.setdefault(answer, []).append(case)
    if len(cases) == 1:
        (answer,) = cases
        return _escape(answer)
    return "<br>".join(_escape(f"{', '.join(names)}: {one}") for one, names in cases.items())


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<|", "&lt;|")
