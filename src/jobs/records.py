"""Records of files and batches, as the database keeps them."""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from src.core.identity import Caller, CallerLimits


class Purpose(StrEnum):
    """Purpose of a file."""

    BATCH = "batch"
    FINE_TUNE = "fine-tune"
    BATCH_OUTPUT = "batch_output"


class Status(StrEnum):
    """State of a batch."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """No runner works on the batch any more."""
        return self in (Status.FAILED, Status.COMPLETED, Status.EXPIRED, Status.CANCELLED)


@dataclass(frozen=True, slots=True)
class Owner:
    """Creator of files and batches, as it was when it created them.

    Args:
        caller: the API key or token; `ANONYMOUS` without authentication.
        address: the client's address, for limits of clients without a key.
    """

    caller: Caller
    address: str | None = None

    @property
    def id(self) -> str:
        """Files and batches are visible to their owner alone; empty without authentication."""
        return self.caller.id

    def dump(self) -> dict[str, Any]:
        """Returns the owner as JSON values."""
        caller = asdict(self.caller) | {"scopes": sorted(self.caller.scopes)}
        return {"caller": caller, "address": self.address}

    @classmethod
    def load(cls, values: dict[str, Any]) -> Self:
        """Reads what `dump` returned."""
        caller = values["caller"]
        scopes, limits = frozenset(caller["scopes"]), CallerLimits(**caller["limits"])
        return cls(Caller(**caller | {"scopes": scopes, "limits": limits}), values["address"])


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file; times are Unix times in seconds."""

    id: str
    purpose: str
    filename: str
    num_bytes: int
    created_at: int
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason for a batch to fail.

    Args:
        code: OpenAI's code.
        message: the problem and its remedy.
        line: line of the input file, from 1; None for the file as a whole.
        param: the field of the line.
    """

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Lines of a batch by their state."""

    total: int = 0
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of all answered lines."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch; times are Unix times in seconds.

    Args:
        id: of the batch.
        endpoint: path of the route that answers its lines.
        input_file_id: of its lines.
        completion_window: as the client wrote it.
        created_at: of the batch.
        expires_at: lines that are not answered by then fail.
        served_model: first name of the model of the server that accepted it.
        status: its state.
        metadata: the client's.
        output_seconds: lifetime of its output files; None is the default.
        times: by the name of a state, when it began.
        problems: reasons of a failure.
        model: name in its lines.
        counts: lines by state.
        usage: tokens, once it has ended.
        output_file_id: answers, once it has ended.
        error_file_id: failed lines, once it has ended.
    """

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    served_model: str
    status: Status = Status.VALIDATING
    metadata: dict[str, str] | None = None
    output_seconds: int | None = None
    times: dict[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    model: str | None = None
    counts: Counts = Counts()
    usage: TokenUsage | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None

    def dump(self) -> str:
        """Returns the batch as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        """Reads what `dump` returned."""
        values = json.loads(text)
        values["status"] = Status(values["status"])
        values["problems"] = tuple(Problem(**problem) for problem in values["problems"])
        values["counts"] = Counts(**values["counts"])
        if values["usage"] is not None:
            values["usage"] = TokenUsage(**values["usage"])
        return cls(**values)
