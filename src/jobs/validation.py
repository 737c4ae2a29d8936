"""Validation of a batch's input file: all lines, or none, go to the worklist."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from src.jobs.lines import Line, LineError, LineRequest, LineRules, check_line, read_lines
from src.jobs.records import Problem
from src.jobs.worklist import OpenLine, Worklist

MAX_PROBLEMS = 100
SLICE_LINES = 50
PAUSE_SECONDS = 0.002
"""After each slice of lines: parsing holds the GIL, which running requests need too."""


@dataclass(slots=True)
class Findings:
    """Result of a validation.

    Args:
        problems: the first MAX_PROBLEMS; empty if the file is valid.
        num_lines: that are not empty.
        model: name in the first line.
    """

    problems: list[Problem] = field(default_factory=list)
    num_lines: int = 0
    model: str | None = None


def validate(path: Path, rules: LineRules, max_lines: int, worklist: Worklist) -> Findings:
    """Reads a whole file into an empty worklist; blocks. Its memory does not grow with the file.

    Raises:
        FileNotFoundError: the file was removed.
        StorageFullError, StorageDownError: the disk refused the worklist.
    """
    findings = Findings()
    lines = read_lines(path, rules.max_bytes)
    while part := list(itertools.islice(lines, SLICE_LINES)):
        valid = list(_valid_lines(part, rules, findings))
        duplicates = worklist.add(valid)
        findings.problems += [_duplicate(line) for line in duplicates]
        findings.num_lines += len(part)
        if findings.num_lines > max_lines:
            message = f"A batch has at most {max_lines} lines here (the server's BATCH_MAX_LINES)."
            findings.problems.append(Problem("too_many_tasks", message))
        if len(findings.problems) >= MAX_PROBLEMS or findings.num_lines > max_lines:
            break
        time.sleep(PAUSE_SECONDS)
    if findings.num_lines == 0:
        findings.problems.append(Problem("empty_file", "The file has no lines."))
    findings.problems.sort(key=lambda problem: problem.line or 0)
    del findings.problems[MAX_PROBLEMS:]
    return findings


def _valid_lines(lines: list[Line], rules: LineRules, findings: Findings) -> Iterator[OpenLine]:
    """Yields the lines without problems, and adds the problems of the others."""
    for line in lines:
        try:
            request = check_line(line, rules)
            _check_model(request, findings)
        except LineError as error:
            findings.problems.append(error.at(line.number))
        else:
            yield OpenLine(line.number, line.offset, line.length, request.custom_id)


def _check_model(request: LineRequest, findings: Findings) -> None:
    findings.model = findings.model or request.model
    if request.model != findings.model:
        raise LineError(
            "model_mismatch", "All lines of a batch must name the same model.", "body.model"
        )


def _duplicate(line: OpenLine) -> Problem:
    message = "The custom_id of this line is that of an earlier line; each must be unique."
    return Problem("duplicate_custom_id", message, line.number, "custom_id")
