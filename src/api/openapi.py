"""Parts of /openapi.json that FastAPI does not derive: errors, streams, authentication."""

from typing import Any, cast

from fastapi import FastAPI
from pydantic import BaseModel

from src.api.family import ApiFamily
from src.inference import InferenceEngine
from src.middleware.route_policy import RoutePolicies, RoutePolicy

Schema = dict[str, Any]

ERROR_DESCRIPTIONS = {
    404: "The model is not served here.",
    409: "The state does not allow it.",
    413: "The body is larger than MAX_BODY_BYTES.",
    415: "The content type is not JSON.",
    429: "Too many requests; see Retry-After.",
    500: "The model failed on this request.",
    503: "The model is loading, the queue is full (see Retry-After), or the engine has stopped.",
    507: "The server's disk for files is full.",
    504: "The first token did not come within TIMEOUT_SECONDS.",
}
SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key or a token, as `Authorization: Bearer ...`.",
    },
    "x-api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "An API key, on the routes of Anthropic's API.",
    },
}


def error_responses(family: ApiFamily, *statuses: int) -> dict[int | str, Schema]:
    """Returns the documentation of a route's error answers."""
    descriptions = {**ERROR_DESCRIPTIONS, **family.error_descriptions}
    return {
        status: {"model": family.error_model_of(status), "description": descriptions[status]}
        for status in statuses
    }


def stream_documentation(description: str, *events: type[BaseModel], named: bool = False) -> Schema:
    """Returns the documentation of a 200 that may be a stream, by OpenAPI 3.2's `itemSchema`.

    Args:
        description: of the answer, streamed or not.
        events: wire models of the events' data.
        named: each event is named by its `type`; else `[DONE]` ends the stream.
    """
    data: list[Schema] = [
        {"type": "string", "contentMediaType": "application/json", "contentSchema": _schema(event)}
        for event in events
    ]
    if not named:
        data.append({"const": "[DONE]"})
    item = {
        "type": "object",
        "properties": {"data": {"anyOf": data}, "event": {"type": "string"}},
        "required": ["data"],
    }
    return {"description": description, "content": {"text/event-stream": {"itemSchema": item}}}


def _schema(model: type[BaseModel]) -> Schema:
    """Returns a model's schema with its `$ref`s resolved: streams add no components."""
    schema = model.model_json_schema(mode="serialization")
    definitions = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict) and "$ref" in value:
            return inline(definitions[value["$ref"].rpartition("/")[2]])
        if isinstance(value, dict):
            return {key: inline(inner) for key, inner in value.items()}
        return [inline(item) for item in value] if isinstance(value, list) else value

    return cast(Schema, inline(schema))


def document_model_name(app: FastAPI, engine: InferenceEngine) -> None:
    """Shows the served model's name in the examples of the app's document."""
    generate = app.openapi

    def openapi() -> Schema:
        document = generate()
        for schema in document["components"]["schemas"].values():
            for example in schema.get("examples", ()):
                if "model" in example:
                    example["model"] = engine.model_name  # another one once a fallback is loaded
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def document_security(app: FastAPI, policies: RoutePolicies) -> None:
    """Adds security schemes, 401 and 403 to the app's document, for Swagger UI among others."""
    generate = app.openapi

    def openapi() -> Schema:
        is_new = app.openapi_schema is None
        document = generate()
        if is_new:
            document["components"]["securitySchemes"] = SECURITY_SCHEMES
            for path, operations in document["paths"].items():
                policy = policies.find(path)
                if not policy.is_public:
                    for operation in operations.values():
                        _add_security(operation, policy)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _add_security(operation: Schema, policy: RoutePolicy) -> None:
    family = policy.family
    assert isinstance(family, ApiFamily)
    names = ["bearer", *([family.api_key_header.decode()] if family.api_key_header else [])]
    operation["security"] = [{name: []} for name in names]
    schema = {"$ref": f"#/components/schemas/{family.error_model.__name__}"}
    content = {"application/json": {"schema": schema}}
    refusals = {"401": "The key or token is missing or invalid."}
    if policy.scope is not None:
        refusals["403"] = f"The key lacks the scope `{policy.scope}`."
    for status, description in refusals.items():
        operation["responses"][status] = {"description": description, "content": content}
