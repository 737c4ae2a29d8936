"""Jobs for systems, traces of their runs, and figures of the traces.

A job runs on any system, over HTTP or not, and returns one trace for each request. Both travel
between processes as lines of JSON.
"""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass

from src.cli.measurement import Trace, duration, quantile


class BenchmarkError(Exception):
    """An invalid measurement: a request failed or a system did not start."""


@dataclass(frozen=True, slots=True)
class Start:
    """The time at which a request of the job has received a number of pieces of text."""

    request: int
    num_texts: int


@dataclass(frozen=True, slots=True)
class Request:
    """One generation.

    Args:
        prompt: text to continue.
        max_tokens: exact number of new tokens, whether the model ends or not.
        temperature: 0 is greedy.
        top_p: nucleus sampling.
        favoured: the only tokens that may be sampled; empty leaves it to the model. Our engine
            without HTTP alone supports it.
        start: when to send it; None is as soon as the job's concurrency allows.
    """

    prompt: str
    max_tokens: int = 64
    temperature: float = 0
    top_p: float = 1
    favoured: tuple[int, ...] = ()
    start: Start | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Requests, sent in order, at most `concurrency` of them at a time."""

    requests: list[Request]
    concurrency: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Job":
        raw = json.loads(line)
        requests = [
            Request(**one | {"start": one["start"] and Start(**one["start"])})
            for one in raw["requests"]
        ]
        return cls(requests, raw["concurrency"])


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one run of a job; times in seconds, gaps are those between a stream's tokens."""

    tokens_per_second: float
    ttft_p50: float
    ttft_p95: float
    gap_p50: float
    gap_p95: float


Stream = Callable[[Request], AsyncGenerator[tuple[str, int]]]
"""Sends a request; yields each new text and the number of tokens to add to the count."""


async def run_job(job: Job, stream: Stream) -> list[Trace]:
    """Runs a job and traces each of its requests."""
    running = _RunningJob(job, stream)
    async with asyncio.TaskGroup() as group:
        for index in range(len(job.requests)):
            group.create_task(running.run(index))
    return running.traces


class _RunningJob:
    """State of a running job: its turns and its texts so far."""

    def __init__(self, job: Job, stream: Stream) -> None:
        self._requests = job.requests
        self._stream = stream
        self._permits = asyncio.Semaphore(job.concurrency)
        starts = [request.start for request in job.requests if request.start is not None]
        self._moments = {start: asyncio.Event() for start in starts}
        self._began = time.perf_counter()
        self.traces = [Trace(0) for _ in job.requests]

    async def run(self, index: int) -> None:
        """Waits for a request's turn and runs it; a failure is recorded in its trace."""
        if (start := self._requests[index].start) is not None:
            await self._moments[start].wait()
        async with self._permits:
            try:
                await self._trace(index)
            except Exception as error:  # noqa: BLE001 - any failure is this request's result
                self.traces[index].error = f"{type(error).__name__}: {error}"
                for moment in self._moments.values():  # nothing waits for lost texts
                    moment.set()

    async def _trace(self, index: int) -> None:
        trace = self.traces[index]
        trace.sent = self._now()
        async with aclosing(self._stream(self._requests[index])) as pieces:
            async for text, num_tokens in pieces:
                trace.num_tokens += num_tokens
                if text:
                    trace.texts.append(self._now())
                    if (moment := self._moments.get(Start(index, len(trace.texts)))) is not None:
                        moment.set()
        trace.ended = self._now()

    def _now(self) -> float:
        return time.perf_counter() - self._began


def check(job: Job, traces: list[Trace]) -> None:
    """Checks that each request got exactly its tokens.

    Raises:
        BenchmarkError: one did not.
    """
    for number, (request, trace) in enumerate(zip(job.requests, traces, strict=True)):
        if trace.error is not None:
            raise BenchmarkError(f"request {number} failed: {trace.error}")
        if trace.num_tokens != request.max_tokens:
            raise BenchmarkError(
                f"request {number} asked for {request.max_tokens} tokens, got {trace.num_tokens}"
            )
        if not trace.texts:
            raise BenchmarkError(f"request {number} got no text")


def summarize(traces: list[Trace]) -> Figures:
    """Returns the figures of a job's traces."""
    first = [trace.time_to_first_token for trace in traces]
    gaps = [gap for trace in traces for gap in trace.gaps]
    return Figures(
        tokens_per_second=sum(trace.num_tokens for trace in traces) / duration(traces),
        ttft_p50=quantile(first, 0.5),
        ttft_p95=quantile(first, 0.95),
        gap_p50=quantile(gaps, 0.5),
        gap_p95=quantile(gaps, 0.95),
    )


def median_figures(repeats: list[Figures]) -> Figures:
    """Returns the median of each figure over the repeats."""
    return Figures(
        **{
            name: statistics.median(getattr(repeat, name) for repeat in repeats)
            for name in Figures.__dataclass_fields__
        }
    )
