"""Numbers of the house: `make house`; its language: `python -m tests.support.house PATH`.

The language is that of CONTRIBUTING.md: docstrings open with a verb or a noun phrase, code
and requests are no persons, and sentences are short.
"""

import ast
import io
import re
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "benchmarks", "training", "deploy", "docs", "lessons")
OPENERS = re.compile(r"(What|Who|Whose|Whom|Which|How|Where|Whether|When|Why|As|Of|That|If)\b")
PERSONS = re.compile(
    r"\b(who|whose|whom|whoever|nobody|somebody|anybody|everybody)\b", re.IGNORECASE
)
TEST_NAME = re.compile(r"test_(what|who|whose|whom|which|how|where|whether|why|whatever|whoever)_")
MAX_WORDS = 30
SENTENCE_END = re.compile(
    r"[.:;!?][)\"'`]*\s|\n\s*\n|\n\s*(?:[-*|]|\d+\.)\s|\n\s*[├│└]|\n(?=\s*\w+: )"
)
CODE = re.compile(r"`[^`]*`")

CORE_PATH = (
    "src/api/native/generate.py",
    "src/api/fields/sampling.py",
    "src/inference.py",
    "src/text/tokenization.py",
    "src/core/request_runner.py",
    "src/core/output_dispatcher.py",
    "src/engine/request.py",
    "src/engine/sampling_params.py",
    "src/engine/admission.py",
    "src/engine/loop.py",
    "src/engine/core.py",
    "src/engine/scheduling/scheduler.py",
    "src/engine/scheduling/sequence.py",
    "src/engine/scheduling/step.py",
    "src/engine/scheduling/kv_cache_manager.py",
    "src/engine/scheduling/token_budget.py",
    "src/engine/scheduling/waiting_queue.py",
    "src/engine/scheduling/fair_queue.py",
    "src/engine/scheduling/blocks.py",
    "src/engine/scheduling/stop_conditions.py",
    "src/engine/model/runner.py",
    "src/engine/attention/packed_step.py",
    "src/engine/attention/packed_attention.py",
    "src/engine/attention/layer.py",
    "src/engine/attention/native_attention.py",
    "src/engine/attention/kv_cache.py",
    "src/engine/sampling/sampler.py",
    "src/core/outputs.py",
    "src/core/text_stream.py",
    "src/text/detokenizer.py",
    "src/api/sse.py",
)
"""Files that one request passes through, in reading order; README gives their length."""


SETTINGS = "src/config.py"
"""One table of all settings with their descriptions; it grows with them, unlike other modules."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A text that breaks a rule of the language."""

    path: Path
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.rule}: {self.text}"


def python_files(*folders: str) -> list[Path]:
    """Returns the Python files below folders of the project."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields line and text of each docstring, also of those that stand below an attribute."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if isinstance(statement, ast.Expr):
                value = getattr(statement.value, "value", None)
                if isinstance(statement.value, ast.Constant) and isinstance(value, str):
                    yield statement.lineno, value


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yields line and text of each block of comments."""
    block: list[str] = []
    start = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            start = start if block else token.start[0]
            block.append(token.string.lstrip("# "))
        elif token.type not in {tokenize.NL, tokenize.NEWLINE} and block:
            yield start, " ".join(block)
            block = []


def parse(source: str) -> ast.Module:
    """Parses Python; Python 3.11 may fail once if another thread parses (python/cpython#106905)."""
    try:
        return ast.parse(source)
    except SystemError:
        return ast.parse(source)


def problems_of_text(path: Path, line: int, text: str) -> Iterator[Problem]:
    """Yields persons and long sentences."""
    plain = CODE.sub("x", text)
    for person in PERSONS.finditer(plain):
        yield Problem(path, line, "person", f"{person.group()} in {_around(plain, person.start())}")
    for sentence in SENTENCE_END.split(plain):
        words = sentence.split()
        if len(words) > MAX_WORDS:
            yield Problem(path, line, f"{len(words)} words", " ".join(words[:8]) + " ...")


def problems(path: Path) -> Iterator[Problem]:
    """Yields the problems of a file's docstrings and comments, and of the names of its tests."""
    source = path.read_text()
    tree = parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and TEST_NAME.match(node.name):
            yield Problem(path, node.lineno, "opener", node.name)
    for line, text in docstrings(tree):
        if OPENERS.match(text.lstrip()):
            yield Problem(path, line, "opener", text.strip().partition("\n")[0])
        yield from problems_of_text(path, line, text)
    for line, text in comments(source):
        yield from problems_of_text(path, line, text)


def _around(text: str, position: int) -> str:
    return " ".join(text[max(0, position - 30) : position + 30].split())


def function_lines(folder: str) -> list[int]:
    """Returns the sizes of all functions below a folder, sorted."""
    trees = [parse(path.read_text()) for path in python_files(folder)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return sorted((node.end_lineno or 0) - node.lineno + 1 for node in functions)


def modules_by_room() -> Counter[str]:
    """Returns the number of modules that each folder of src has directly."""
    files = [path for path in python_files("src") if path.name != "__init__.py"]
    return Counter(path.parent.relative_to(ROOT).as_posix() for path in files)


def num_lines(*paths: str) -> int:
    """Returns the number of lines of files together."""
    return sum(len((ROOT / path).read_text().splitlines()) for path in paths)


def num_problems() -> dict[str, int]:
    """Returns the numbers of problems of language, by rule."""
    rules = Counter(
        "long sentences" if one.rule.endswith("words") else f"{one.rule}s"
        for path in python_files(*FOLDERS)
        for one in problems(path)
    )
    return {
        "docstrings and test names that open with a question word": rules["openers"],
        "persons": rules["persons"],
        "sentences of more than 30 words": rules["long sentences"],
    }


def numbers() -> dict[str, int]:
    """Returns the sizes that CI keeps from growing."""
    sizes = function_lines("src")
    return {
        "most modules in a room": max(modules_by_room().values()),
        "lines of the longest module": max(
            len(path.read_text().splitlines())
            for path in python_files("src")
            if path != ROOT / SETTINGS
        ),
        "lines of a function, 90th percentile": int(statistics.quantiles(sizes, n=10)[-1]),
        "lines of the longest function": sizes[-1],
        "lines of the core path": num_lines(*CORE_PATH),
    }


def main(arguments: list[str]) -> None:
    """Prints the numbers, or the problems of the files below the given paths."""
    for argument in arguments:
        path = ROOT / argument
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for problem in problems(file):
                print(problem)
    if not arguments:
        for name, modules in sorted(modules_by_room().items()):
            print(f"{modules:6}  modules in {name}")
        for name, number in (numbers() | num_problems()).items():
            print(f"{number:6}  {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
