"""The request models of all routes, and the models inside of them."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel


def request_models(app: FastAPI) -> dict[str, type[BaseModel]]:
    """Path of each route that reads a body, and the body's model."""
    models = {}
    for route in iter_route_contexts(app.routes):
        body = getattr(route.original_route, "body_field", None)
        if body is not None:
            models[route.path] = body.field_info.annotation
    return models


def all_models(app: FastAPI) -> set[type[BaseModel]]:
    """All of them, and all models of their fields."""
    models = request_models(app).values()
    return {inner for model in models for inner in _models(model.__pydantic_core_schema__)}


def _models(schema: Any) -> Iterator[type[BaseModel]]:
    if isinstance(schema, dict):
        if schema.get("type") == "model":
            yield schema["cls"]
        schema = [inner for key, inner in schema.items() if key != "metadata"]
    if isinstance(schema, list | tuple):
        for inner in schema:
            yield from _models(inner)
