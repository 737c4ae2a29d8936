"""Who may import whom, as docs/architecture.md draws it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"

# What each part of src may import of the others.
ALLOWED = {
    "errors": set(),
    "callers": set(),
    "parameters": set(),
    "models": {"parameters"},
    "engine": {"errors"},
    "config": {"errors", "engine.config"},
    "generation": {"engine"},
    "delivery": {"callers", "engine", "errors"},
    "limits": {"engine", "errors"},
    "tokenization": {"engine", "errors", "limits"},
    "tool_call_format": {"engine", "errors"},
    "tool_calls": {"engine", "errors", "tool_call_format"},
    "tool_call_parser": {"tool_call_format"},
    "model_host": {"delivery", "engine", "errors"},
    "runs": {"delivery", "engine", "errors", "generation", "model_host"},
    "inference": {
        "callers",
        "delivery",
        "generation",
        "limits",
        "model_host",
        "runs",
        "tokenization",
        "tool_call_format",
        "tool_calls",
        "engine",
        "config",
        "errors",
    },
    "ops": {"callers", "config", "errors"},
    "keys": {"ops", "errors"},
    "api": {
        "models",
        "parameters",
        "generation",
        "inference",
        "model_host",
        "tokenization",
        "tool_call_format",
        "tool_calls",
        "tool_call_parser",
        "ops",
        "config",
        "errors",
        "engine.chat_template",
        "engine.sampling.logprobs",
        "engine.request",
        "engine.sampling_params",
        "engine.structured_output.source",
        "engine.token_text",
    },
    "process_end": set(),
    "server": {"ops"},
    "workers": {"process_end", "server"},
    "serving": {"config", "errors", "ops", "process_end", "server", "workers"},
    "startup_hints": {"config", "inference"},
    "main": {
        "api",
        "config",
        "engine.structured_output.compile_pool",
        "errors",
        "inference",
        "limits",
        "ops",
        "process_end",
        "server",
        "serving",
        "startup_hints",
    },
}
FORBIDDEN_LIBRARIES = {
    "engine": {
        "fastapi",
        "starlette",
        "uvicorn",
        "pydantic",
        "pydantic_settings",
        "prometheus_client",
        "slowapi",
    },
    "errors": {"fastapi", "starlette", "pydantic"},
    "callers": {"fastapi", "starlette", "pydantic", "torch"},
    "generation": {"fastapi", "starlette", "pydantic", "torch"},
    "delivery": {"fastapi", "starlette", "pydantic", "prometheus_client", "torch"},
    "limits": {"fastapi", "starlette", "pydantic", "torch"},
    "tool_call_format": {"fastapi", "starlette", "pydantic", "torch"},
    "tool_calls": {"fastapi", "starlette", "pydantic", "torch"},
    "tool_call_parser": {"fastapi", "starlette", "pydantic", "torch"},
    "tokenization": {"fastapi", "starlette", "pydantic", "torch"},
    "model_host": {"fastapi", "starlette", "pydantic", "prometheus_client"},
    "runs": {"fastapi", "starlette", "pydantic", "prometheus_client", "torch"},
    "inference": {"fastapi", "starlette", "pydantic", "prometheus_client"},
    "server": {"torch", "transformers", "tokenizers"},
    "workers": {"torch", "transformers", "tokenizers"},
    "serving": {"torch", "transformers", "tokenizers"},
    "api": {"torch", "transformers", "tokenizers"},
    "ops": {"torch", "transformers", "tokenizers"},
}


# Libraries that a room inside of a part never imports.
FORBIDDEN_IN_ROOMS = {"engine/structured_output": {"torch", "transformers"}}


def part_of(path: Path) -> str:
    return path.relative_to(SRC).with_suffix("").parts[0]


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = [path for path in sorted(SRC.rglob("*.py")) if path != SRC / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_only_from_layers_below(path):
    part = part_of(path)
    allowed = ALLOWED[part] | {part}
    for module in imported_modules(path):
        if not module.startswith("src."):
            continue
        name = module.removeprefix("src.")
        if name == "__version__":
            continue
        # `from src.api import x` gives both "api" and "api.x": each must be below an allowed name,
        # or above one (the package of an allowed module).
        assert any(
            name == one or name.startswith(one + ".") or one.startswith(name + ".")
            for one in allowed
        ), f"{part} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_no_library_that_belongs_to_another_layer(path):
    libraries = {module.partition(".")[0] for module in imported_modules(path)}
    assert not libraries & FORBIDDEN_LIBRARIES.get(part_of(path), set())
    room = path.parent.relative_to(SRC).as_posix()
    assert not libraries & FORBIDDEN_IN_ROOMS.get(room, set())


def test_the_rules_cover_all_of_src():
    assert {part_of(path) for path in FILES} == set(ALLOWED)
