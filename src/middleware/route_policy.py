"""Rules of each route that hold before it runs: API family, authorization, metering, draining.

`api/routes.py` holds the table of all routes. `main` hands it to `RoutePolicyMiddleware`, which
puts the policy of a request into its ASGI scope; the middlewares inside read it there.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

ROUTE_POLICY = "route_policy"
"""Key of a request's `RoutePolicy` in its ASGI scope."""


class RouteKind(StrEnum):
    """Purpose of a route."""

    INFERENCE = "inference"  # uses the model or its tokenizer
    JOBS = "jobs"  # files and batches
    CATALOG = "catalog"  # describes the served models
    PROBE = "probe"  # health checks and scrapes, called every few seconds
    DOCUMENTATION = "documentation"
    UNKNOWN = "unknown"  # no such route


class ErrorFormat(Protocol):
    """The part of an API family that middlewares need: its error answers and its headers."""

    @property
    def request_id_header(self) -> str | None:
        """Header that repeats the request id for this family's clients, beside X-Request-ID."""

    @property
    def api_key_header(self) -> bytes | None:
        """Header that may hold an API key instead of `Authorization`, in lower case."""

    def error_body(
        self,
        status_code: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Returns the JSON body of an error answer."""


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """Policy of one route.

    Args:
        path: template of the route's path.
        family: API family that the route belongs to.
        kind: purpose of the route.
        scope: scope that the caller needs; None accepts any valid key.
        is_public: needs no authentication.
        field_names: the engine's field names to those of the route's request body, for errors.
        is_upload: the body is a multipart form of any size, which the route bounds itself.
    """

    path: str
    family: ErrorFormat
    kind: RouteKind
    scope: str | None = None
    is_public: bool = False
    field_names: Mapping[str | int, str] = field(default_factory=dict)
    is_upload: bool = False

    @property
    def is_metered(self) -> bool:
        """Requests have a usage account: tokens are reserved and concurrency is limited."""
        return self.kind is RouteKind.INFERENCE

    @property
    def is_drained(self) -> bool:
        """Requests are refused while the server shuts down; earlier ones are waited for."""
        return self.kind in (RouteKind.INFERENCE, RouteKind.JOBS)

    @property
    def is_measured(self) -> bool:
        """Requests count in the request metrics."""
        return self.kind in (RouteKind.INFERENCE, RouteKind.JOBS, RouteKind.UNKNOWN)

    @property
    def is_probe(self) -> bool:
        """Requests are logged at debug level and are not traced."""
        return self.kind is RouteKind.PROBE


class RoutePolicies:
    """Finds the policy of a path.

    Args:
        policies: one for each route of the app.
        families: path prefixes to the families of unknown paths below them; the first match wins.
        default_family: family of all other unknown paths.
        unknown_scope: scope that unknown paths need.
    """

    def __init__(
        self,
        policies: Iterable[RoutePolicy],
        families: Mapping[str, ErrorFormat],
        default_family: ErrorFormat,
        unknown_scope: str,
    ) -> None:
        self.policies = tuple(policies)
        self._families = {**families, **{policy.path: policy.family for policy in self.policies}}
        self._default_family = default_family
        self._unknown_scope = unknown_scope
        self._by_path = {policy.path: policy for policy in self.policies if "{" not in policy.path}
        self._by_pattern: list[tuple[re.Pattern[str], RoutePolicy]] = [
            (compile_path(policy.path)[0], policy) for policy in self.policies if "{" in policy.path
        ]

    def find(self, path: str) -> RoutePolicy:
        """Returns the policy of a path as it was sent; an unknown path needs `unknown_scope`."""
        policy = self._by_path.get(path)
        if policy is not None:
            return policy
        for pattern, policy in self._by_pattern:
            if pattern.match(path):
                return policy
        family = self._family_of_unknown(path)
        return RoutePolicy(path, family, RouteKind.UNKNOWN, scope=self._unknown_scope)

    def _family_of_unknown(self, path: str) -> ErrorFormat:
        for prefix, family in self._families.items():
            if path == prefix or path.startswith(prefix + "/"):
                return family
        return self._default_family


class RoutePolicyMiddleware:
    """Puts the policy of each HTTP request into its scope.

    Args:
        app: the app inside.
        policies: policies of all routes.
    """

    def __init__(self, app: ASGIApp, policies: RoutePolicies) -> None:
        self._app = app
        self._policies = policies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # The path decides, as it does in routing; no header such as Host has a say.
            scope[ROUTE_POLICY] = self._policies.find(scope["path"])
        await self._app(scope, receive, send)


def policy_of(scope: Scope) -> RoutePolicy:
    """Returns the policy of a request; a request without one fails."""
    policy: RoutePolicy = scope[ROUTE_POLICY]
    return policy
