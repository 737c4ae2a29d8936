"""What /openapi.json says of keys and tokens, so that Swagger UI can ask for one and send it."""

from typing import Any

from fastapi import FastAPI

from src.api.family import ApiFamily
from src.middleware.route_policy import RoutePolicies, RoutePolicy

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


def document_security(app: FastAPI, policies: RoutePolicies) -> None:
    """Adds authentication and scopes to the app's OpenAPI document."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = make()
        if is_new:
            document["components"]["securitySchemes"] = SCHEMES
            for path, operations in document["paths"].items():
                policy = policies.find(path)
                if not policy.is_public:
                    for operation in operations.values():
                        _document(policy, operation)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _document(policy: RoutePolicy, operation: dict[str, Any]) -> None:
    family = policy.family
    assert isinstance(family, ApiFamily)
    names = ["bearer", *([family.api_key_header.decode()] if family.api_key_header else [])]
    operation["security"] = [{name: []} for name in names]
    schema = {"$ref": f"#/components/schemas/{family.error_model.__name__}"}
    content = {"application/json": {"schema": schema}}
    refusals = {"401": "No key, or one that is not valid."}
    if policy.scope is not None:
        refusals["403"] = f"The key has not the scope `{policy.scope}`."
    for status, description in refusals.items():
        operation["responses"][status] = {"description": description, "content": content}
