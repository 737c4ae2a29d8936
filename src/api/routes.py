"""The table of all routes: path, router, API family, kind, scope and field names.

A new route needs one row here. `route_policies` makes what authentication, metering, draining,
logs and error answers ask of a path; `add_routes` refuses an app with a route that has no row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount

from src.api.anthropic import routes as messages
from src.api.anthropic.family import ANTHROPIC
from src.api.family import ApiFamily
from src.api.native import engine_events, generate, health, playground
from src.api.native.family import NATIVE
from src.api.openai import lora, models, tokenize
from src.api.openai.batches import routes as batches
from src.api.openai.chat import routes as chat
from src.api.openai.completions import routes as completions
from src.api.openai.decisions import routes as decisions
from src.api.openai.embeddings import routes as embeddings
from src.api.openai.family import OPENAI
from src.api.openai.files import routes as files
from src.api.openai.ranking import routes as ranking
from src.api.openai.responses import background as background_responses
from src.api.openai.responses import routes as responses
from src.auth.api_keys import Scope
from src.middleware.route_policy import RouteKind, RoutePolicies, RoutePolicy


class Access(Enum):
    """Access to a route that needs no scope."""

    PUBLIC = auto()
    ANY_KEY = auto()


PUBLIC, ANY_KEY = Access.PUBLIC, Access.ANY_KEY

PREFIXES: dict[str, ApiFamily] = {"/v1/messages": ANTHROPIC, "/v1": OPENAI, "/v2": OPENAI}
"""Families of unknown paths; the first matching prefix wins. Others are the native API's."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Args:
        path: template of the path, as the router has it.
        router: router that serves the path; None is FastAPI itself.
        family: API family of its errors.
        kind: purpose; decides on metering, draining, metrics and logs (`RoutePolicy`).
        access: scope that a key needs; ANY_KEY for all valid keys, PUBLIC without a key.
        field_names: the engine's field names to this route's, for errors.
        is_upload: the body is a multipart form, which the route reads itself.
    """

    path: str
    router: APIRouter | None
    family: ApiFamily
    kind: RouteKind
    access: Scope | Access
    field_names: Mapping[str | int, str] = field(default_factory=dict)
    is_upload: bool = False


INFERENCE, JOBS, CATALOG = RouteKind.INFERENCE, RouteKind.JOBS, RouteKind.CATALOG
PROBE, DOCUMENTATION = RouteKind.PROBE, RouteKind.DOCUMENTATION

# In this order /openapi.json lists them.
# fmt: off
ROWS = (
    Row("/generate", generate.router, NATIVE, INFERENCE, Scope.GENERATE),
    Row("/generate/batch", generate.router, NATIVE, INFERENCE, Scope.GENERATE),
    Row("/v1/completions", completions.router, OPENAI, INFERENCE, Scope.GENERATE,
        {"prompt_logprobs": "logprobs"}),
    Row("/v1/chat/completions", chat.router, OPENAI, INFERENCE, Scope.GENERATE,
        {"prompt": "messages"}),
    Row("/v1/responses", responses.router, OPENAI, INFERENCE, Scope.GENERATE,
        {"prompt": "input", "max_tokens": "max_output_tokens", "logprobs": "top_logprobs"}),
    Row("/v1/responses/{response_id}", background_responses.router, OPENAI, JOBS, Scope.GENERATE),
    Row("/v1/responses/{response_id}/cancel", background_responses.router, OPENAI, JOBS,
        Scope.GENERATE),
    Row("/v1/embeddings", embeddings.router, OPENAI, INFERENCE, Scope.EMBEDDINGS,
        {"prompt": "input", "max_tokens": "input"}),
    Row("/v1/rerank", ranking.router, OPENAI, INFERENCE, Scope.EMBEDDINGS),
    Row("/rerank", ranking.router, OPENAI, INFERENCE, Scope.EMBEDDINGS),
    Row("/v2/rerank", ranking.router, OPENAI, INFERENCE, Scope.EMBEDDINGS),
    Row("/v1/score", ranking.router, OPENAI, INFERENCE, Scope.EMBEDDINGS),
    Row("/score", ranking.router, OPENAI, INFERENCE, Scope.EMBEDDINGS),
    Row("/v1/decisions", decisions.router, OPENAI, INFERENCE, Scope.GENERATE),
    Row("/v1/messages", messages.router, ANTHROPIC, INFERENCE, Scope.GENERATE,
        {"prompt": "messages"}),
    Row("/v1/messages/count_tokens", messages.router, ANTHROPIC, INFERENCE, Scope.GENERATE),
    Row("/v1/files", files.router, OPENAI, JOBS, Scope.GENERATE, is_upload=True),
    Row("/v1/files/{file_id}", files.router, OPENAI, JOBS, Scope.GENERATE),
    Row("/v1/files/{file_id}/content", files.router, OPENAI, JOBS, Scope.GENERATE),
    Row("/v1/batches", batches.router, OPENAI, JOBS, Scope.GENERATE),
    Row("/v1/batches/{batch_id}", batches.router, OPENAI, JOBS, Scope.GENERATE),
    Row("/v1/batches/{batch_id}/cancel", batches.router, OPENAI, JOBS, Scope.GENERATE),
    Row("/v1/models", models.router, OPENAI, CATALOG, ANY_KEY),
    Row("/v1/models/{model_id:path}", models.router, OPENAI, CATALOG, ANY_KEY),
    Row("/v1/load_lora_adapter", lora.router, OPENAI, CATALOG, Scope.ADMIN),
    Row("/v1/unload_lora_adapter", lora.router, OPENAI, CATALOG, Scope.ADMIN),
    Row("/tokenize", tokenize.router, OPENAI, INFERENCE, Scope.GENERATE),
    Row("/detokenize", tokenize.router, OPENAI, INFERENCE, Scope.GENERATE),
    Row("/tokenizer_info", tokenize.router, OPENAI, INFERENCE, Scope.GENERATE),
    Row("/health", health.router, NATIVE, PROBE, PUBLIC),
    Row("/health/live", health.router, NATIVE, PROBE, PUBLIC),
    Row("/health/ready", health.router, NATIVE, PROBE, PUBLIC),
    Row("/metrics", health.router, NATIVE, PROBE, Scope.METRICS),
    Row("/v1/engine/events", engine_events.router, OPENAI, PROBE, Scope.METRICS),
    Row("/", playground.router, NATIVE, DOCUMENTATION, PUBLIC),
    Row("/playground/{version}/{path:path}", playground.router, NATIVE, DOCUMENTATION, PUBLIC),
    Row("/docs", None, NATIVE, DOCUMENTATION, PUBLIC),
    Row("/docs/oauth2-redirect", None, NATIVE, DOCUMENTATION, PUBLIC),
    Row("/redoc", None, NATIVE, DOCUMENTATION, PUBLIC),
    Row("/openapi.json", None, NATIVE, DOCUMENTATION, PUBLIC),
    Row("/static-offline-docs/{path:path}", None, NATIVE, DOCUMENTATION, PUBLIC),
)
# fmt: on


def route_policies() -> RoutePolicies:
    """Returns the policies of all rows; unknown paths need the scope `admin`."""
    policies = [
        RoutePolicy(
            row.path,
            row.family,
            row.kind,
            scope=row.access if isinstance(row.access, Scope) else None,
            is_public=row.access is PUBLIC,
            field_names=row.field_names,
            is_upload=row.is_upload,
        )
        for row in ROWS
    ]
    return RoutePolicies(policies, PREFIXES, NATIVE, unknown_scope=Scope.ADMIN)


def add_routes(app: FastAPI) -> None:
    """Adds all routers of the table to the app.

    Raises:
        RuntimeError: the table and the app's routes differ.
    """
    routers = {id(row.router): row.router for row in ROWS if row.router is not None}
    for router in routers.values():
        app.include_router(router)
    check_routes(app)


def check_routes(app: FastAPI) -> None:
    """Compares the app's routes with the table.

    Raises:
        RuntimeError: a route has no row, or a row has no route.
    """
    paths, rows = route_paths(app), {row.path for row in ROWS}
    if paths != rows:
        raise RuntimeError(
            f"src/api/routes.py and the app differ. Routes without a row: {sorted(paths - rows)}."
            f" Rows without a route: {sorted(rows - paths)}. Add or remove rows of ROWS."
        )


def route_paths(app: FastAPI) -> set[str]:
    """Returns the path templates of all routes of the app, hidden ones too."""
    return {
        f"{route.path}/{{path:path}}" if isinstance(route.original_route, Mount) else route.path
        for route in iter_route_contexts(app.routes)
        if route.path is not None
    }
