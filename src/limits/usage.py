"""Accounting of each caller's tokens: reserved before generation, settled and logged afterwards.

A request reserves the tokens of its prompt and its maximum answer when it goes to the engine. Once
its last sequence has ended, unused tokens are given back and one line of JSON goes to USAGE_LOG. No
line holds a prompt or an answer.
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

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.config import Settings
from src.core.identity import ANONYMOUS, Caller
from src.core.observers import SequenceStats
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
from src.middleware.error_body import CALLER, INTERNAL_CALLER, REQUEST_ID
from src.middleware.route_policy import policy_of
from src.observability.http_metrics import HttpMetrics

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Account:
    """Reserved and used tokens of one HTTP request."""

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


class Usage:
    """Accounts of all running requests.

    Args:
        settings: limits of callers without limits of their own, and USAGE_LOG.
        limits: counts tokens and running requests.
        metrics: counts requests and tokens by caller.
    """

    def __init__(self, settings: Settings, limits: RateLimit, metrics: HttpMetrics) -> None:
        self._settings = settings
        self._limits = limits
        self._metrics = metrics
        self._log = UsageLog(settings.usage_log) if settings.usage_log else None

    async def reserve(self, num_prompt_tokens: int, num_new_tokens: int, count: int) -> None:
        """Takes the tokens of `count` sequences before they go to the engine.

        Raises:
            RateLimitedError: the caller has too few tokens left.
            InvalidRequestError: the request exceeds MAX_REQUEST_TOKENS or the caller's whole quota.
            LimitStorageDownError: they cannot be counted, and RATE_LIMIT_STORAGE_FAILURE is closed.
        """
        account = _current.get()
        if account is None:
            return
        quota = account.caller.limits.tokens or self._settings.rate_limit_tokens
        total = num_prompt_tokens + num_new_tokens
        max_tokens = self._settings.max_request_tokens
        bounds = [bound for bound in (max_tokens, quota) if bound is not None]
        is_prompt = num_prompt_tokens >= min(bounds, default=0)  # fewer new tokens would not help
        field = ("prompt",) if is_prompt else ("max_tokens",)
        if max_tokens is not None and total > max_tokens:
            raise InvalidRequestError(
                f"The request takes up to {total} tokens, its prompts and n times max_tokens, and"
                f" this server allows {max_tokens}: ask for fewer.",
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
        """Withdraws sequences that were reserved but not accepted by the engine."""
        account = _current.get()
        if account is not None:
            account.num_prompt_tokens -= num_prompt_tokens
            account.num_live -= count
            account.num_sequences -= count

    def sequence_ended(self, sequence: SequenceStats) -> None:
        """Adds a sequence's tokens; called in the context of its request."""
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
            RateLimitedError: the caller's maximum number of requests runs already.
            LimitStorageDownError: as of `reserve`.
        """
        caller: Caller = scope.get(CALLER, ANONYMOUS)
        key = caller.id or rate_limit_key(scope)
        budget = wait_budget(scope)
        max_running = caller.limits.concurrent or self._settings.rate_limit_concurrent
        lease = None
        if max_running is not None and INTERNAL_CALLER not in scope:
            lease = await self._limits.start(key, max_running, budget)
        self._metrics.caller_requests.labels(self._metrics.caller_label(caller.id)).inc()
        allowances = scope.setdefault(ALLOWANCES, {})
        request_id = str(scope.get(REQUEST_ID))
        return Account(caller, key, request_id, scope["path"], lease, [], allowances, budget)

    def close(self, account: Account) -> None:
        """Closes an answered request's account; its sequences may end later."""
        if account.lease is not None:
            self._limits.end(account.lease)
        account.is_open = False
        self._settle(account)

    def shutdown(self) -> None:
        """Writes the remaining lines of the log."""
        if self._log is not None:
            self._log.shutdown()

    def _settle(self, account: Account) -> None:
        if account.is_open or account.num_live:
            return
        prompt = account.num_prompt_tokens if account.was_admitted else 0
        unused = sum(reservation.num_tokens for reservation in account.reservations)
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
    """File of JSON lines that several processes append to, and that may be rotated at any time.

    A full disk may cut a line. A cut line is logged as lost, and the next one starts on a new line,
    also after a restart or a cut by another process.

    Args:
        path: of the file; created with mode 0600.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "usage-log")  # a slow disk delays no request

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
    """Returns True if a line can be appended as it is; also for files that are not regular."""
    with suppress(FileNotFoundError, PermissionError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size:
            with path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) == b"\n"
    return True


class UsageMiddleware:
    """Opens an account for each request to a metered route, and closes it with the response.

    Responses have the headers RateLimit and RateLimit-Policy for all limits of their caller; a 429
    for the limit that was exceeded.

    Args:
        app: the application.
        usage: keeps the accounts.
    """

    def __init__(self, app: ASGIApp, usage: Usage) -> None:
        self._app = app
        self._usage = usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not policy_of(scope).is_metered:
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
