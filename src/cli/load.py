"""Load on one OpenAI-compatible server: concurrent streams, and the figures of their traces."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any

import httpx2

from src.cli.client import CHAT, COMPLETIONS, Answer, client_options, stream_async
from src.cli.failures import transport_failure
from src.cli.measurement import Trace, duration, quantile
from src.errors import CommandError

WORDS = (
    "the a of and to in that it was for on as with at by from they we you this but not or an are"
    " all there when up out so about some into time water old new great where help through much"
    " before line right too mean any same tell boy follow came want show also around form three"
    " small set put end does another well large must big even such because turn here why ask"
)
"""Common words, one token each in most vocabularies."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests to send.

    Args:
        path: route, of chats or completions.
        prompts: text of each request.
        concurrency: requests at the same time.
        fields: further fields of each request.
    """

    path: str
    prompts: list[str]
    concurrency: int
    fields: dict[str, Any]

    def body(self, model: str, prompt: str) -> dict[str, Any]:
        """Returns the request for a prompt."""
        text: dict[str, Any] = {"prompt": prompt}
        if self.path == CHAT:
            text = {"messages": [{"role": "user", "content": prompt}]}
        return {"model": model, **text, **self.fields}


@dataclass(frozen=True, slots=True)
class Distribution:
    """Quantiles of a time, in milliseconds."""

    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, seconds: list[float]) -> "Distribution":
        """Returns the quantiles of times in seconds; None without any."""
        if not seconds:
            return cls(None, None, None)
        return cls(*(round(1000 * quantile(seconds, share), 3) for share in (0.5, 0.95, 0.99)))


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a load.

    Args:
        url: of the server.
        model: name of the model.
        concurrency: requests at the same time.
        requests: answered requests.
        failed: requests without an answer.
        seconds: time from the first request to the last answer.
        requests_per_second: answered requests over that time.
        tokens_per_second: new tokens of all requests over that time.
        prompt_tokens: mean of a request's prompt, None if the server does not count.
        completion_tokens: mean of an answer.
        ttft: time to first token, from sending a request.
        itl: inter-token latency, the time between two pieces of an answer.
        latency: time of a whole answer.
    """

    url: str
    model: str
    concurrency: int
    requests: int
    failed: int
    seconds: float
    requests_per_second: float
    tokens_per_second: float
    prompt_tokens: float | None
    completion_tokens: float
    ttft: Distribution
    itl: Distribution
    latency: Distribution


def create_prompts(number: int, length: int, seed: int) -> list[str]:
    """Creates texts of `length` words; they begin differently, so that no prefix is shared."""
    random, words = Random(seed), WORDS.split()  # noqa: S311 - the same prompts each time
    return [" ".join(random.choices(words, k=length)) for _ in range(number)]


def path_of(endpoint: str) -> str:
    """Returns the route of `chat` or `completions`."""
    return {"chat": CHAT, "completions": COMPLETIONS}[endpoint]


async def run_load(
    load: Load, url: str, api_key: str | None, model: str, on_end: Callable[[], None]
) -> list[Trace]:
    """Sends all requests, at most `concurrency` at a time, and traces each.

    Args:
        load: the requests.
        url: of the server.
        api_key: its key; None for none.
        model: name of the model.
        on_end: called when a request has ended.
    """
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(**client_options(url, api_key), limits=limits) as client:
        prompts = iter(load.prompts)
        traces: list[Trace] = []
        began = time.perf_counter()

        async def send_in_turn() -> None:
            for prompt in prompts:
                traces.append(await _trace(client, load, load.body(model, prompt), began))
                on_end()

        async with asyncio.TaskGroup() as group:
            for _ in range(load.concurrency):
                group.create_task(send_in_turn())
        return traces


async def _trace(
    client: httpx2.AsyncClient, load: Load, body: dict[str, Any], began: float
) -> Trace:
    answer = Answer.start()
    trace = Trace(answer.started_at - began)
    try:
        async with aclosing(stream_async(client, load.path, body)) as deltas:
            async for delta in deltas:
                answer.add(delta)
                if delta.text or delta.thought:
                    trace.texts.append(answer.ended_at - began)
    except CommandError as error:
        trace.error = str(error)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        trace.error = str(transport_failure(error, str(client.base_url)))
    trace.ended = time.perf_counter() - began
    trace.num_tokens, trace.num_prompt_tokens = answer.num_tokens, answer.num_prompt_tokens
    return trace


def summarize(load: Load, url: str, model: str, traces: list[Trace]) -> Figures:
    """Returns the figures of the answered requests.

    Raises:
        CommandError: none was answered.
    """
    answered = [trace for trace in traces if trace.error is None]
    if not answered:
        raise CommandError(f"No request to {url} was answered: {traces[0].error}")
    seconds = duration(answered)
    counts = [trace.num_prompt_tokens for trace in answered if trace.num_prompt_tokens is not None]
    return Figures(
        url=url,
        model=model,
        concurrency=load.concurrency,
        requests=len(answered),
        failed=len(traces) - len(answered),
        seconds=round(seconds, 3),
        requests_per_second=round(len(answered) / seconds, 3),
        tokens_per_second=round(sum(trace.num_tokens for trace in answered) / seconds, 2),
        prompt_tokens=_mean(counts),
        completion_tokens=_mean([trace.num_tokens for trace in answered]) or 0,
        ttft=Distribution.of([trace.time_to_first_token for trace in answered if trace.texts]),
        itl=Distribution.of([gap for trace in answered for gap in trace.gaps]),
        latency=Distribution.of([trace.ended - trace.sent for trace in answered]),
    )


def _mean(values: Iterable[int]) -> float | None:
    numbers = [*values]
    return round(fmean(numbers), 1) if numbers else None
