"""The rooms of src, what each may import of the others, and libraries that it never imports.

A room is a package or a module; its own rules hold for it and, where they have none of their own,
for the packages inside of it. `docs/generate.py` writes the table of docs/architecture.md from
this, and tests/test_layering.py reads the imports. Imports for type checkers alone count too.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SRC = Path(__file__).parents[2] / "src"

WEB = frozenset({"fastapi", "starlette", "uvicorn", "slowapi", "prometheus_client"})
WIRE = frozenset({"pydantic", "pydantic_settings"})
MODEL = frozenset({"torch", "transformers", "tokenizers"})


@dataclass(frozen=True, slots=True)
class Room:
    """Rules of a room.

    Args:
        imports: rooms and modules of src that it may import, beside itself.
        never: libraries that it must not import.
    """

    imports: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()


def room(imports: str = "", *never: frozenset[str]) -> Room:
    """Creates a room's rules; names of imports are separated by spaces."""
    return Room(frozenset(imports.split()), frozenset().union(*never))


ENGINE_TYPES = "engine.request engine.sampling_params engine.logprobs"
API = (
    "api core engine.structured_output.source errors inference limits.rate_limit models"
    f" text tool_calling config {ENGINE_TYPES}"
)

ROOMS = {
    "errors": room("", WEB, WIRE, MODEL),
    "config": room(
        "core.model_names engine.config engine.lora.settings engine.sampling_params errors",
        WEB,
        MODEL,
    ),
    "models": room("api.fields.bounds api.fields.priority api.fields.timings", MODEL),
    "engine": room(
        "errors engine.attention engine.cpu_layers engine.kernels engine.model engine.reference"
        " engine.sampling engine.scheduling engine.structured_output engine.lora",
        WEB,
        WIRE,
    ),
    "engine.scheduling": room(
        "engine.isolation engine.logprobs engine.request engine.sampling_params"
        " engine.structured_output.matcher engine.thought",
        WEB,
        WIRE,
        MODEL,
    ),
    "engine.attention": room(
        "engine.kernels.arguments engine.kernels.bindings engine.scheduling.blocks",
        WEB,
        WIRE,
        MODEL - {"torch"},
    ),
    "engine.model": room(
        "errors engine.attention engine.config engine.logprobs engine.progress engine.request"
        " engine.sampling_params engine.scheduling engine.sampling engine.kernels.arguments"
        " engine.kernels.bindings engine.kernels.build text.chat_template",
        WEB,
        WIRE,
    ),
    "engine.sampling": room(
        "engine.logprobs engine.sampling_params engine.kernels.bindings"
        " engine.structured_output.matcher",
        WEB,
        WIRE,
    ),
    "engine.structured_output": room("errors engine.structured_output.checks", WEB, WIRE, MODEL),
    "engine.structured_output.checks": room(
        "errors", WEB, WIRE, MODEL, frozenset({"llguidance", "numpy"})
    ),
    "engine.cpu_layers": room(
        "errors engine.attention engine.config engine.kernels engine.model engine.progress",
        WEB,
        WIRE,
    ),
    "engine.lora": room(
        "errors engine.attention engine.cpu_layers.linear engine.scheduling.step", WEB, WIRE
    ),
    "engine.kernels": room("", WEB, WIRE, MODEL - {"torch"}),
    "engine.reference": room(
        "errors engine.admission engine.engine_thread engine.isolation engine.logprobs"
        " engine.request engine.sampling_params engine.model engine.sampling"
        " engine.structured_output.matcher engine.thought",
        WEB,
        WIRE,
    ),
    "text": room("errors", WEB, WIRE, {"torch"}),
    "tool_calling": room(
        "errors text.chat_template text.reasoning engine.config engine.structured_output.source",
        WEB,
        WIRE,
        MODEL,
    ),
    "core": room("core errors engine text", WEB, WIRE, MODEL),
    "core.identity": room("", WEB, WIRE, MODEL),
    "core.priority": room("engine.request", WEB, WIRE, MODEL),
    "core.model_names": room("", WEB, WIRE, MODEL),
    "engine.lora.settings": room("", WEB, WIRE, MODEL),
    "core.observers": room("engine.request engine.sampling_params", WEB, WIRE, MODEL),
    "inference": room(
        "errors core engine.config engine.sampling_params engine.thought"
        " engine.structured_output.compile_pool text tool_calling",
        WEB,
        WIRE,
        MODEL,
    ),
    "api": room(
        f"{API} auth.api_keys jobs limits.rate_limit middleware observability playground"
        " server.draining server.connection server.service",
        MODEL,
    ),
    "api.fields": room(
        "api.family auth.api_keys core.identity core.priority core.timings engine.logprobs"
        " engine.request engine.sampling_params engine.structured_output.source errors"
        " middleware.ignored_fields models",
        MODEL,
    ),
    "api.chat": room(API, MODEL),
    "api.native": room(f"{API} observability.step_feed playground server.draining", MODEL),
    "api.openai": room(f"{API} jobs", MODEL),
    "api.anthropic": room(API, MODEL),
    "jobs": room("core.identity errors", WEB, WIRE, MODEL),
    "celery_queue": room(
        "config core.priority engine.request errors jobs middleware.error_body", MODEL
    ),
    "auth": room(
        "errors config core.identity limits.rate_limit middleware.error_body"
        " middleware.route_policy",
        MODEL,
    ),
    "limits": room(
        "errors config core.identity core.observers middleware observability.http_metrics", MODEL
    ),
    "observability": room("errors config core.observers engine.request", MODEL),
    "middleware": room("errors config observability.http_metrics", MODEL),
    "server": room(
        "errors config core.model_names core.request_validation"
        " engine.request engine.structured_output.compile_pool inference auth.authenticators"
        " core.identity core.priority jobs celery_queue limits middleware observability playground",
        MODEL,
    ),
    "playground": room("", WEB, WIRE, MODEL),
    "offline": room("errors config core.identity jobs main server", MODEL),
    "cli": room("errors offline auth.key_file config engine.model.source", WEB, WIRE, MODEL),
    "__main__": room("cli.app", WEB, WIRE, MODEL),
    "main": room(
        "errors config api auth celery_queue.tokens limits middleware observability server",
        MODEL,
    ),
}


def room_of(path: Path) -> str:
    """Returns the room of a file: the deepest of ROOMS that holds it."""
    parts = path.relative_to(SRC).with_suffix("").parts
    names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((name for name in names if name in ROOMS), parts[0])


def imported_modules(path: Path) -> Iterator[str]:
    """Yields the dotted names of all modules that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield from (_imported_from(node.module, alias.name) for alias in node.names)


def _imported_from(module: str, name: str) -> str:
    """Returns the module that holds what `from module import name` names."""
    below = SRC.parent.joinpath(*module.split("."), name)
    return f"{module}.{name}" if below.with_suffix(".py").exists() or below.is_dir() else module
