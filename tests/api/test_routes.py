"""The table of routes: one policy for each route of the app, and a closed one for other paths."""

import pytest

from src.api.anthropic.family import ANTHROPIC
from src.api.native.family import NATIVE
from src.api.openai.family import OPENAI
from src.api.routes import check_routes, route_paths, route_policies
from src.main import create_app
from src.middleware.route_policy import RouteKind
from tests.conftest import create_settings

INFERENCE, JOBS, CATALOG = RouteKind.INFERENCE, RouteKind.JOBS, RouteKind.CATALOG
PROBE, DOCUMENTATION = RouteKind.PROBE, RouteKind.DOCUMENTATION
PUBLIC = "public"

# Path to family, kind, and scope; None is any key.
EXPECTED = {
    "/generate": (NATIVE, INFERENCE, "generate"),
    "/generate/batch": (NATIVE, INFERENCE, "generate"),
    "/v1/completions": (OPENAI, INFERENCE, "generate"),
    "/v1/chat/completions": (OPENAI, INFERENCE, "generate"),
    "/v1/responses": (OPENAI, INFERENCE, "generate"),
    "/v1/embeddings": (OPENAI, INFERENCE, "embeddings"),
    "/v1/rerank": (OPENAI, INFERENCE, "embeddings"),
    "/rerank": (OPENAI, INFERENCE, "embeddings"),
    "/v2/rerank": (OPENAI, INFERENCE, "embeddings"),
    "/v1/score": (OPENAI, INFERENCE, "embeddings"),
    "/score": (OPENAI, INFERENCE, "embeddings"),
    "/v1/decisions": (OPENAI, INFERENCE, "generate"),
    "/v1/messages": (ANTHROPIC, INFERENCE, "generate"),
    "/v1/messages/count_tokens": (ANTHROPIC, INFERENCE, "generate"),
    "/v1/files": (OPENAI, JOBS, "generate"),
    "/v1/files/{file_id}": (OPENAI, JOBS, "generate"),
    "/v1/files/{file_id}/content": (OPENAI, JOBS, "generate"),
    "/v1/responses/{response_id}": (OPENAI, JOBS, "generate"),
    "/v1/responses/{response_id}/cancel": (OPENAI, JOBS, "generate"),
    "/v1/batches": (OPENAI, JOBS, "generate"),
    "/v1/batches/{batch_id}": (OPENAI, JOBS, "generate"),
    "/v1/batches/{batch_id}/cancel": (OPENAI, JOBS, "generate"),
    "/v1/models": (OPENAI, CATALOG, None),
    "/v1/models/{model_id:path}": (OPENAI, CATALOG, None),
    "/v1/load_lora_adapter": (OPENAI, CATALOG, "admin"),
    "/v1/unload_lora_adapter": (OPENAI, CATALOG, "admin"),
    "/tokenize": (OPENAI, INFERENCE, "generate"),
    "/detokenize": (OPENAI, INFERENCE, "generate"),
    "/tokenizer_info": (OPENAI, INFERENCE, "generate"),
    "/health": (NATIVE, PROBE, PUBLIC),
    "/health/live": (NATIVE, PROBE, PUBLIC),
    "/health/ready": (NATIVE, PROBE, PUBLIC),
    "/metrics": (NATIVE, PROBE, "metrics"),
    "/v1/engine/events": (OPENAI, PROBE, "metrics"),
    "/": (NATIVE, DOCUMENTATION, PUBLIC),
    "/playground/{version}/{path:path}": (NATIVE, DOCUMENTATION, PUBLIC),
    "/docs": (NATIVE, DOCUMENTATION, PUBLIC),
    "/docs/oauth2-redirect": (NATIVE, DOCUMENTATION, PUBLIC),
    "/redoc": (NATIVE, DOCUMENTATION, PUBLIC),
    "/openapi.json": (NATIVE, DOCUMENTATION, PUBLIC),
    "/static-offline-docs/{path:path}": (NATIVE, DOCUMENTATION, PUBLIC),
}


def test_each_route_of_the_app_has_the_expected_policy():
    policies = route_policies()
    found = {}
    for template in route_paths(create_app(create_settings())):
        policy = policies.find(template)
        assert policy.path == template
        found[template] = (
            policy.family,
            policy.kind,
            PUBLIC if policy.is_public else policy.scope,
        )
    assert found == EXPECTED


@pytest.mark.parametrize("path", EXPECTED)
def test_inference_routes_alone_are_metered(path):
    policy = route_policies().find(path)
    kind = EXPECTED[path][1]
    assert policy.is_metered == (kind is INFERENCE)
    assert (policy.is_drained, policy.is_measured) == (kind in (INFERENCE, JOBS),) * 2
    assert policy.is_upload == (path == "/v1/files")
    assert policy.is_probe == (EXPECTED[path][1] is PROBE)


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("", NATIVE),
        ("/playground", NATIVE),
        ("/generate/", NATIVE),
        ("/healthy", NATIVE),
        ("/static-offline-docs", NATIVE),
        ("/v1", OPENAI),
        ("/v1/", OPENAI),
        ("/v1/uploads", OPENAI),
        ("/v1/modelsx", OPENAI),
        ("/tokenize/", OPENAI),
        ("/v1/messages/batches", ANTHROPIC),
        ("/v1/messagesx", OPENAI),
    ],
)
def test_an_unknown_path_needs_admin_and_has_the_family_of_its_prefix(path, family):
    policy = route_policies().find(path)
    assert (policy.kind, policy.scope, policy.is_public) == (RouteKind.UNKNOWN, "admin", False)
    assert policy.family is family
    assert not policy.is_metered
    assert not policy.is_drained


@pytest.mark.parametrize("model", ["tiny", "org/model", ""])
def test_a_parameter_of_a_path_may_hold_slashes(model):
    assert route_policies().find(f"/v1/models/{model}").path == "/v1/models/{model_id:path}"


def test_a_route_without_a_row_stops_the_start():
    app = create_app(create_settings())
    app.add_api_route("/v1/uploads", lambda: None)
    with pytest.raises(RuntimeError, match=r"without a row: \['/v1/uploads'\].*Add or remove rows"):
        check_routes(app)


def test_a_row_without_a_route_stops_the_start():
    app = create_app(create_settings())
    app.router.routes = [
        route for route in app.router.routes if getattr(route, "path", None) != "/redoc"
    ]
    with pytest.raises(RuntimeError, match=r"without a route: \['/redoc'\]"):
        check_routes(app)
