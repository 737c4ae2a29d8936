"""What each caller uses: reserved before it is computed, settled and written down afterwards.

A request's prompt and the most that it may answer are taken from its caller's tokens when it goes
to the engine. Once its last sequence has ended, what was not needed is given back, and one line of
JSON goes to USAGE_LOG. No line holds a prompt or an answer.
"""

import errno
import json
import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.auth.middleware import METERED
from src.config import Settings
from src.core.identity import ANYBODY, Caller
from src.errors import InvalidRequestError, LimitStorageDownError, RateLimitedError
from src.limits.client_address import rate_limit_key
from src.limits.concurrency import Lease
from src.limits.rate_limit import (
    ALLOWANCES,
    Allowance,
    RateLimit,
    allowance_headers,
    limit_response,
)
from src.limits.storage import WaitBudget, wait_budget
from src.limits.token_quota import Reservation
from src.middleware.error_body import CALLER, REQUEST_ID
from src.observability.http_metrics import HttpMetrics

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Account:
    """One HTTP request: what it has reserved, and what it has used."""

    caller: Caller
    key: str
    request_id: str
    endpoint: str
    lease: Lease | None
    reservations: list[Reservation]
    allowances: dict[str, Allowance]
    wait_budget: WaitBudget
    is_open: bool = True
    num_live: int = 0
    num_sequences: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    was_admitted: bool = False


_current: ContextVar[Account | None] = ContextVar("account", default=None)


class EndedSequence(Protocol):
    """What is told of a sequence."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def admitted_at(self) -> float | None: ...


class Usage:
    """Keeps the accounts of all requests that are being answered.

    Args:
        settings: how much each caller may have, and where the log is.
        limits: counts tokens.
        metrics: counts what was used.
    """

    def __init__(self, settings: Settings, limits: RateLimit, metrics: HttpMetrics) -> None:
        self._settings = settings
        self._limits = limits
        self._metrics = metrics
        self._log = UsageLog(settings.usage_log) if settings.usage_log else None

    async def reserve(self, num_prompt_tokens: int, num_new_tokens: int, count: int) -> None:
        """Takes the tokens of `count` sequences that are to be computed.

        Raises:
            RateLimitedError: the caller has not so many left.
            InvalidRequestError: the caller never has so many, or no request may take them.
            LimitStorageDownError: they cannot be counted, and such a request is to be refused.
        """
        account = _current.get()
        if account is None:
            return
        quota = account.caller.limits.tokens or self._settings.rate_limit_tokens
        total = num_prompt_tokens + num_new_tokens
        most = self._settings.max_request_tokens
        bounds = [bound for bound in (most, quota) if bound is not None]
        is_prompt = num_prompt_tokens >= min(bounds, default=0)  # none new would help
        field = ("prompt",) if is_prompt else ("max_tokens",)
        if most is not None and total > most:
            raise InvalidRequestError(
                f"The request takes up to {total} tokens, its prompts and n times max_tokens, and"
                f" this server allows {most}: ask for fewer.",
                field,
            )
        if quota is not None:
            if total > quota:
                raise InvalidRequestError(
                    f"The request takes up to {total} tokens, and its key has {quota} in"
                    f" {self._settings.rate_limit_period} seconds: ask for fewer.",
                    field,
                )
            reservation = await self._limits.reserve_tokens(
                account.key, total, quota, account.wait_budget
            )
            if reservation is not None:
                account.reservations.append(reservation)
                period = self._settings.rate_limit_period
                account.allowances["tokens"] = Allowance(
                    "tokens", quota, period, reservation.num_left
                )
        account.num_prompt_tokens += num_prompt_tokens
        account.num_sequences += count
        account.num_live += count

    def give_up(self, num_prompt_tokens: int, count: int) -> None:
        """Of sequences whose tokens were reserved none was taken in."""
        account = _current.get()
        if account is not None:
            account.num_prompt_tokens -= num_prompt_tokens
            account.num_live -= count
            account.num_sequences -= count

    def sequence_ended(self, sequence: EndedSequence) -> None:
        """Adds what a sequence has used; called in the context of its request."""
        account = _current.get()
        if account is None:
            return
        account.num_live -= 1
        account.num_generated_tokens += sequence.num_tokens
        account.was_admitted |= sequence.admitted_at is not None
        self._settle(account)

    async def open(self, scope: Scope) -> Account:
        """Opens a request's account.

        Raises:
            RateLimitedError: too many of its caller's are being answered.
            LimitStorageDownError: they cannot be counted, and such a request is to be refused.
        """
        caller: Caller = scope.get(CALLER, ANYBODY)
        key = caller.id or rate_limit_key(scope)
        budget = wait_budget(scope)
        max_running = caller.limits.concurrent or self._settings.rate_limit_concurrent
        lease = None
        if max_running is not None:
            lease = await self._limits.start(key, max_running, budget)
        self._metrics.caller_requests.labels(self._metrics.caller_label(caller.id)).inc()
        allowances = scope.setdefault(ALLOWANCES, {})
        request_id = str(scope.get(REQUEST_ID))
        return Account(caller, key, request_id, scope["path"], lease, [], allowances, budget)

    def close(self, account: Account) -> None:
        """The request is answered; what it began may still end."""
        if account.lease is not None:
            self._limits.end(account.lease)
        account.is_open = False
        self._settle(account)

    def shutdown(self) -> None:
        """Writes what is left to write."""
        if self._log is not None:
            self._log.shutdown()

    def _settle(self, account: Account) -> None:
        if account.is_open or account.num_live:
            return
        prompt = account.num_prompt_tokens if account.was_admitted else 0
        unused = sum(one.num_tokens for one in account.reservations)
        unused -= prompt + account.num_generated_tokens
        for reservation in account.reservations:
            amount = max(0, min(unused, reservation.num_tokens))
            self._limits.give_back_tokens(reservation, amount)
            unused -= amount
        label = self._metrics.caller_label(account.caller.id)
        self._metrics.caller_tokens.labels(label, "prompt").inc(prompt)
        self._metrics.caller_tokens.labels(label, "generated").inc(account.num_generated_tokens)
        if self._log is not None and account.num_sequences:
            self._log.write(_line(account, prompt))


def _line(account: Account, num_prompt_tokens: int) -> str:
    return json.dumps(
        {
            "time": datetime.now(UTC).isoformat(),
            "request_id": account.request_id,
            "key": account.caller.id,
            "name": account.caller.name,
            "endpoint": account.endpoint,
            "sequences": account.num_sequences,
            "prompt_tokens": num_prompt_tokens,
            "generated_tokens": account.num_generated_tokens,
        }
    )


class UsageLog:
    """A file of JSON lines, which may be moved away at any time and may be shared by processes.

    A full disk may cut a line. What was cut is logged as lost, and the next line begins anew, also
    after a restart and where another process was cut off.

    Args:
        path: of the file; it is made for its owner alone to read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "usage-log")  # a slow disk holds up nobody

    def write(self, line: str) -> None:
        self._thread.submit(self._append, line)

    def shutdown(self) -> None:
        self._thread.shutdown()

    def _append(self, line: str) -> None:
        data = line.encode() + b"\n"
        try:
            if not _ends_with_newline(self._path):
                data = b"\n" + data
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with os.fdopen(os.open(self._path, flags, 0o600), "wb", buffering=0) as file:
                num_written = file.write(data)  # in one call, so that processes do not mix lines
            if num_written != len(data):
                raise OSError(errno.ENOSPC, "the line was cut")
        except OSError as error:
            logger.error("usage is not written to USAGE_LOG: %s; lost: %s", error, line)


def _ends_with_newline(path: Path) -> bool:
    """Whether a line may begin at the end: also in an empty file, and in what is no regular one."""
    with suppress(FileNotFoundError, PermissionError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size:
            with path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) == b"\n"
    return True


class UsageMiddleware:
    """Opens an account for each request that may use tokens, and closes it when it is answered.

    Answers say what is left of their caller's limits; a 429 speaks of the one that it is about.

    Args:
        app: what uses them.
        usage: keeps the accounts.
    """

    def __init__(self, app: ASGIApp, usage: Usage) -> None:
        self._app = app
        self._usage = usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in METERED:
            await self._app(scope, receive, send)
            return
        try:
            account = await self._usage.open(scope)
        except (RateLimitedError, LimitStorageDownError) as error:
            await limit_response(scope, error)(scope, receive, send)
            return

        async def send_with_allowances(message: Message) -> None:
            is_head = message["type"] == "http.response.start" and message["status"] != 429
            if is_head and account.allowances:
                headers = allowance_headers(account.allowances.values())
                MutableHeaders(scope=message).update(headers)
            await send(message)

        token = _current.set(account)
        try:
            await self._app(scope, receive, send_with_allowances)
        finally:
            _current.reset(token)
            self._usage.close(account)
