"""Measures promises of the engine: `python -m benchmarks.goals [GOAL ...] [--help]`.

- sampling: top-p 0.9 costs at most a tenth of greedy's tokens per second.
- http: streaming over HTTP costs at most a tenth of the engine's tokens per second.
- openai: OpenAI's streams have at most a tenth less tokens per second than native ones. OpenAI's
    client reads both.
- arrival: a short request arrives in a full batch while a long prompt is computed. Its time to
    first token is at most that of the request alone plus one step.
- disturbed: beside another process that computes, the server keeps two fifths of its speed.
- steps: a step's time grows with the live tokens, not with the KV cache's capacity.
- memory: the server's memory stays constant over thousands of requests.
"""

import itertools
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.prompts import Prompts
from benchmarks.report import create_parser, measure_all, medians, milliseconds, note, parse, table
from benchmarks.servers import serve_ours
from benchmarks.systems import UNAIDED, clients, openai_clients, ours, ours_offline
from benchmarks.worker import Run
from benchmarks.workload import BenchmarkError, Job, Request, Start, summarize
from src.cli.measurement import Trace, quantile

TOP_P = {"temperature": 1.0, "top_p": 0.9}
LONG_PROMPT = 900
SHORT_PROMPT = 16


def sampling(arguments: Namespace) -> str:
    """Greedy and top-p take turns on one server, so both see the same state of the machine."""
    prompts = Prompts(arguments.model)
    rows = []
    with ours(str(arguments.model)) as run:
        for num_requests in arguments.concurrency:
            run(prompts.job(num_requests, 4, **TOP_P))
            pairs = []
            for _ in range(arguments.repeats):
                greedy = prompts.job(num_requests, arguments.max_tokens)
                drawn = prompts.job(num_requests, arguments.max_tokens, **TOP_P)
                pairs.append([speed(run, job) for job in (greedy, drawn)])
            rows.append([num_requests, *compare(pairs)])
    return table(["at once", "greedy tok/s", "top-p 0.9 tok/s", "ratio"], rows)


def http(arguments: Namespace) -> str:
    """Server and engine take turns on the same jobs; the idle one sleeps."""
    prompts = Prompts(arguments.model)
    model = str(arguments.model)
    rows = []
    with ours_offline(model) as run_offline, ours(model) as run_http:
        for num_requests in arguments.concurrency:
            warm_up = prompts.job(num_requests, 4)
            run_offline(warm_up), run_http(warm_up)
            pairs = []
            for _ in range(arguments.repeats):
                job = prompts.job(num_requests, arguments.max_tokens)
                pairs.append([speed(run, job) for run in (run_offline, run_http)])
            rows.append([num_requests, *compare(pairs)])
    return table(["at once", "without HTTP tok/s", "over HTTP tok/s", "ratio"], rows)


def openai(arguments: Namespace) -> str:
    """Protocols take turns on one server, each with a process of OpenAI's client."""
    prompts = Prompts(arguments.model)
    rows = []
    template = {"chat_template": "{{ messages[0].content }}"}  # as many tokens as without
    with serve_ours(str(arguments.model), **UNAIDED, **template) as server, ExitStack() as stack:
        native, *others = (
            stack.enter_context(openai_clients(server.url, protocol))
            for protocol in ("generate", "completions", "chat")
        )
        for num_requests in arguments.concurrency:
            warm_up = prompts.job(num_requests, 4)
            for run in (native, *others):
                run(warm_up)
            pairs: list[list[list[float]]] = [[] for _ in others]
            for repeat in range(arguments.repeats):
                for run, speeds in zip(others, pairs, strict=True):
                    # Each has its own prompts, as a cached prefix is not computed again.
                    jobs = [prompts.job(num_requests, arguments.max_tokens) for _ in range(2)]
                    turns = [(native, jobs[0]), (run, jobs[1])]
                    order = -1 if repeat % 2 else 1  # the order alternates
                    speeds.append([speed(*turn) for turn in turns[::order]][::order])
            names = ("/v1/completions", "/v1/chat/completions")
            for name, speeds in zip(names, pairs, strict=True):
                rows.append([num_requests, name, *compare(speeds)])
    return table(["at once", "route", "/generate tok/s", "tok/s", "ratio"], rows)


def disturbed(arguments: Namespace) -> str:
    """Every other run is beside a process that uses one core as far as it can."""
    prompts = Prompts(arguments.model)
    rows = []
    with ours(str(arguments.model)) as run:
        for num_requests in arguments.concurrency:
            run(prompts.job(num_requests, 4))
            pairs = []
            for _ in range(arguments.repeats):
                jobs = [prompts.job(num_requests, arguments.max_tokens) for _ in range(2)]
                alone = speed(run, jobs[0])
                with busy_process():
                    pairs.append([alone, speed(run, jobs[1])])
            rows.append([num_requests, *compare(pairs)])
    return table(["at once", "alone tok/s", "disturbed tok/s", "ratio"], rows)


@contextmanager
def busy_process() -> Iterator[None]:
    """Computes until the context ends."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def speed(run: Run, job: Job) -> float:
    """Returns tokens per second."""
    return summarize(run(job)).tokens_per_second


def compare(pairs: list[list[float]]) -> list[str]:
    """Returns the medians of both, and of the second's share of the first."""
    first, second, share = medians([(first, second, second / first) for first, second in pairs])
    return [f"{first:.1f}", f"{second:.1f}", f"{share:.2f}"]


def arrival(arguments: Namespace) -> str:
    """Measures times to first token: thirty streams run, a long prompt arrives, a step later a
    short one.
    """
    prompts = Prompts(arguments.model)
    with ours(str(arguments.model)) as run:
        run(prompts.job(32, 4))
        alone = [first_token_alone(run, prompts) for _ in range(arguments.repeats)]
        samples = [first_token_amid(run, prompts) for _ in range(arguments.repeats)]
    (own,) = medians([[value] for value in alone])
    step, amid, long = medians(samples)
    header = ["alone", "a step", "alone + a step", "amid the others", "ratio", "the long prompt"]
    times = [milliseconds(seconds) for seconds in (own, step, own + step, amid)]
    return table(header, [[*times, f"{amid / (own + step):.2f}", milliseconds(long)]])


def first_token_alone(run: Run, prompts: Prompts) -> float:
    return run(Job([Request(prompts.take(SHORT_PROMPT), 4)], 1))[0].time_to_first_token


def first_token_amid(run: Run, prompts: Prompts, num_running: int = 30) -> tuple[float, ...]:
    """Returns the times of a step and to the first tokens of the short and of the long request."""
    running = [Request(prompts.take(SHORT_PROMPT), 64) for _ in range(num_running)]
    long = Request(prompts.take(LONG_PROMPT), 4, start=Start(0, 16))
    short = Request(prompts.take(SHORT_PROMPT), 4, start=Start(0, 17))
    *streams, long_trace, short_trace = run(Job([*running, long, short], num_running + 2))
    if short_trace.sent > long_trace.texts[0]:
        raise BenchmarkError("the long prompt was computed before the short one came")
    gaps = gaps_within(streams, long_trace.sent, long_trace.texts[0])
    return quantile(gaps, 0.5), short_trace.time_to_first_token, long_trace.time_to_first_token


def gaps_within(traces: list[Trace], start: float, end: float) -> list[float]:
    """Returns the streams' inter-token times that overlap an interval."""
    return [
        later - earlier
        for trace in traces
        for earlier, later in itertools.pairwise(trace.texts)
        if later > start and earlier < end
    ]


def steps(arguments: Namespace) -> str:
    """Measures eight sequences, short and long, in small and large caches."""
    caches = [
        ("4,096 tokens", {"max_model_len": 256, "max_num_seqs": 8}, [100]),
        ("16,384 tokens", {"max_num_seqs": 8}, [100, 450, LONG_PROMPT]),
        ("131,072 tokens", {"max_num_seqs": 64, "kv_cache_gb": 12}, [100, 450, LONG_PROMPT]),
    ]
    rows = []
    for name, config, lengths in caches:
        prompts = Prompts(arguments.model)
        with ours_offline(str(arguments.model), max_num_batched_tokens=1024, **config) as run:
            run(prompts.job(8, 4))
            for length in lengths:
                times = [[step_time(run, prompts, length)] for _ in range(arguments.repeats)]
                rows.append([name, 8 * (length + 32), milliseconds(medians(times)[0])])
    return table(["KV cache", "live tokens", "time of a step"], rows)


def step_time(run: Run, prompts: Prompts, length: int) -> float:
    """Returns the median inter-token time of eight decoding sequences."""
    traces = run(Job([Request(prompts.take(length), 64) for _ in range(8)], 8))
    start = max(trace.texts[0] for trace in traces)
    return quantile(gaps_within(traces, start, min(trace.ended for trace in traces)), 0.5)


def memory(arguments: Namespace) -> str:
    """Measures memory over short requests, 32 at a time; blocks take memory at their first use."""
    prompts = Prompts(arguments.model)
    total = 200 if arguments.quick else arguments.requests
    part = total // 10
    with serve_ours(str(arguments.model)) as server, clients(server.url) as run:
        rows: list[list[object]] = [[0, f"{server.memory():.1f}"]]
        for done in range(part, total + 1, part):
            requests = [Request(prompts.take(SHORT_PROMPT), 4) for _ in range(part)]
            run(Job(requests, 32))
            rows.append([done, f"{server.memory():.1f}"])
            note(f"  {done} requests: {rows[-1][1]} MiB")
    return table(["requests", "RssAnon MiB"], rows)


GOALS: dict[str, Callable[[Namespace], str]] = {
    "sampling": sampling,
    "http": http,
    "openai": openai,
    "arrival": arrival,
    "disturbed": disturbed,
    "steps": steps,
    "memory": memory,
}


def main() -> None:
    """Measures the goals in turn; the exit status is 1 if a measurement failed."""
    parser = create_parser(__doc__)
    parser.add_argument("goals", nargs="*", metavar="GOAL", help="default: all")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000, help="for memory")
    arguments = parse(parser)
    if unknown := set(arguments.goals) - set(GOALS):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(GOALS)}")
    if arguments.quick:
        arguments.concurrency, arguments.max_tokens = [4], 16
    sys.exit(measure_all({name: GOALS[name] for name in arguments.goals or GOALS}, arguments))


if __name__ == "__main__":
    main()
