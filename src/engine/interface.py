"""Protocol `Engine`: the methods of every engine that its callers use, from any thread."""

from typing import TYPE_CHECKING, Protocol

from src.engine.admission import AdmissionController
from src.engine.request import Request

if TYPE_CHECKING:
    from src.engine.lora.state import LoraState


class Engine(Protocol):
    """Runs requests on one model, in a thread of its own.

    Outputs go to the `UpdateCallback` of `admission`. The last output of each request carries a
    finish reason.
    """

    admission: AdmissionController
    """Admits requests, and ends all of them when the engine ends."""

    lora: "LoraState | None"
    """State of LoRA adapters; None if they are not enabled."""

    @property
    def num_cache_tokens(self) -> int | None:
        """Number of tokens for which the KV cache has room; None if it grows with a request."""

    @property
    def seconds_in_step(self) -> float:
        """Heartbeat for a watchdog: seconds since the current step began; 0 between steps."""

    def add_requests(self, requests: list[Request]) -> None:
        """Queues requests, all or none.

        Raises:
            EngineDeadError: the engine has ended.
            OverloadedError: the queue is full.
        """

    def abort_request(self, request_id: str) -> None:
        """Ends a request before the next step; unknown ids are ignored."""

    def shutdown(self) -> None:
        """Aborts all requests and waits for the thread to end; further calls do nothing."""
