"""API families: the conventions that the routes of one vendor's API share.

A family decides the JSON of error answers, the spelling of field paths, and the headers that its
clients send and expect. `native/family.py`, `openai/family.py` and `anthropic/family.py` hold one
each; `routes.py` says which family a route belongs to.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel

from src.errors import FieldPath

JSON_INVALID = "json_invalid"
"""pydantic's kind of a body that is not JSON; its location is an offset, not a field."""


@dataclass(frozen=True, slots=True)
class RequestProblem:
    """One problem of a request.

    Args:
        kind: pydantic's name of the problem.
        loc: location, which begins with the part of the request, such as `("body", "stop", 0)`.
        message: the problem and the remedy.
    """

    kind: str
    loc: FieldPath
    message: str

    @property
    def field(self) -> FieldPath:
        """Path of the field in the body; empty for the body as a whole."""
        return () if self.kind == JSON_INVALID else self.loc[1:]


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """Status and JSON body of an error answer."""

    status_code: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """Error that ends a stream after its status was sent.

    Args:
        message: the problem.
        status_code: status that the answer would have had.
        code: OpenAI's error code; None derives it from the status.
    """

    message: str
    status_code: int
    code: str | None = None


class ApiFamily(ABC):
    """Conventions of one API family; also an `ErrorFormat` for middlewares."""

    name: ClassVar[str]
    request_id_header: ClassVar[str | None] = None
    api_key_header: ClassVar[bytes | None] = None
    unknown_path: ClassVar[str] = "There is no such path; /docs lists those that there are."
    field_names: ClassVar[Mapping[str | int, str]] = {}
    """The engine's field names to those of all routes of the family."""

    ping: ClassVar[bytes] = b": ping\n\n"
    """Keep-alive of a silent stream; a comment, which all readers of events skip."""

    failure_event: ClassVar[str | None] = None
    """Name of the event that reports a failure in a stream; None leaves it unnamed."""

    error_model: ClassVar[type[BaseModel]]
    """Wire model of error answers, for /openapi.json."""

    error_descriptions: ClassVar[Mapping[int, str]] = {}
    """Descriptions of statuses that mean something else than in other families."""

    def error_model_of(self, status_code: int) -> type[BaseModel]:
        """Returns the wire model of the error answer with a status."""
        return self.error_model

    @abstractmethod
    def error_body(
        self,
        status_code: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Returns the JSON body of an error answer; arguments as of `ErrorFormat`."""

    @abstractmethod
    def validation_answer(
        self, problems: Sequence[RequestProblem], request_id: str | None
    ) -> ErrorAnswer:
        """Returns the answer to a request that its model refuses; at least one problem."""

    @abstractmethod
    def invalid_request_answer(
        self, problem: RequestProblem, status_code: int, code: str, request_id: str | None
    ) -> ErrorAnswer:
        """Returns the answer to an `InvalidRequestError`.

        Args:
            problem: the field in the words of the route, and the message.
            status_code: usual status of the error; a family may have its own.
            code: OpenAI's error code.
            request_id: id of the request.
        """

    @abstractmethod
    def failure_data(self, failure: Failure, request_id: str | None) -> str:
        """Returns the JSON of the event that reports a failure in a stream."""
