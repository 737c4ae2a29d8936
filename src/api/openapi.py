"""What /openapi.json says of keys and tokens, so that Swagger UI can ask for one and send it."""

from typing import Any

from fastapi import FastAPI

from src.auth.middleware import is_public, needed_scope
from src.middleware.error_body import Dialect, dialect_of

SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key or a token, as `Authorization: Bearer ...`.",
    },
    "x-api-key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "Or as Anthropic's clients send it, to its routes.",
    },
}
SCHEMAS = {
    Dialect.NATIVE: "ErrorResponse",
    Dialect.OPENAI: "OpenAIErrorResponse",
    Dialect.ANTHROPIC: "AnthropicErrorResponse",
}


def document_security(app: FastAPI) -> None:
    """Makes the app's document tell who may do what."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = make()
        if is_new:
            document["components"]["securitySchemes"] = SCHEMES
            for path, operations in document["paths"].items():
                if not is_public(path):
                    for operation in operations.values():
                        _document(path, operation)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _document(path: str, operation: dict[str, Any]) -> None:
    dialect = dialect_of({"path": path})
    names = ["bearer", "x-api-key"] if dialect is Dialect.ANTHROPIC else ["bearer"]
    operation["security"] = [{name: []} for name in names]
    schema = {"$ref": f"#/components/schemas/{SCHEMAS[dialect]}"}
    content = {"application/json": {"schema": schema}}
    refusals = {"401": "No key, or one that is not valid."}
    scope = needed_scope(path)
    if scope is not None:
        refusals["403"] = f"The key has not the scope `{scope}`."
    for status, description in refusals.items():
        operation["responses"][status] = {"description": description, "content": content}
