"""Engines without HTTP in a process of their own: `python -m benchmarks.offline ENGINE MODEL`.

ENGINE is `ours` (with the `EngineConfig` of --config as JSON) or `static` (HuggingFace's `generate`
on whole batches). Jobs come from standard input and traces go to standard output, as in
`benchmarks.load`.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.generation.streamers import BaseStreamer

from benchmarks.worker import Run, serve_jobs
from benchmarks.workload import Job, Request, run_job
from src.cli.measurement import Trace
from src.engine.config import EngineConfig
from src.engine.sampling_params import SamplingParams
from src.inference import InferenceEngine

LONG = 3600
"""Timeout that no measurement reaches: the reference engine's jobs wait for minutes in the queue.
"""

ALWAYS = 100.0
"""Logit bias that outweighs the model's own logits."""


def run_ours(model: str, **config: object) -> Run:
    """Our engine, driven as by the service."""
    patient = {"max_queue_seconds": LONG} | config
    engine = InferenceEngine(EngineConfig(model, **patient), timeout_seconds=LONG)  # type: ignore[arg-type]
    engine.load_model()

    async def stream(request: Request) -> AsyncGenerator[tuple[str, int]]:
        params = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            ignore_eos=True,
            logit_bias=dict.fromkeys(request.favoured, ALWAYS),
        )
        token_ids = await engine.tokenize(request.prompt, params)
        async for delta in engine.stream(token_ids, params):
            yield delta.text, delta.num_tokens

    return lambda job: asyncio.run(run_job(job, stream))


class StaticBatches:
    """HuggingFace's `generate` on left-padded batches: all start together and end together."""

    def __init__(self, model: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(model).eval()  # type: ignore[no-untyped-call]
        self._model.generation_config.eos_token_id = None  # all give the tokens they were asked for

    def run(self, job: Job) -> list[Trace]:
        """Runs a job's requests in batches as large as its concurrency."""
        began = time.perf_counter()
        traces: list[Trace] = []
        for start in range(0, len(job.requests), job.concurrency):
            batch = job.requests[start : start + job.concurrency]
            traces += self._generate(batch, lambda: time.perf_counter() - began)
        return traces

    def _generate(self, batch: list[Request], now: Callable[[], float]) -> list[Trace]:
        first = batch[0]
        assert {(r.max_tokens, r.temperature, r.top_p) for r in batch} == {
            (first.max_tokens, first.temperature, first.top_p)
        }, "a batch has the same parameters for all"
        sent = now()
        prompts = [request.prompt for request in batch]
        streamer = _StepTimes(now)
        self._model.generate(
            **self._tokenizer(prompts, return_tensors="pt", padding=True),
            max_new_tokens=first.max_tokens,
            pad_token_id=self._tokenizer.pad_token_id,
            streamer=streamer,
            **_sampling(first),
        )
        times = streamer.times
        return [Trace(sent, times, len(times), ended=now()) for _ in batch]


def _sampling(request: Request) -> dict[str, object]:
    if request.temperature == 0:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": 0,
    }


class _StepTimes(BaseStreamer):
    """Records the time of each step's tokens; `generate` passes the prompt first."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen_prompt = False
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        if self._seen_prompt:
            self.times.append(self._now())
        self._seen_prompt = True

    def end(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=("ours", "static"))
    parser.add_argument("model")
    parser.add_argument("--config", type=json.loads, default={})
    arguments = parser.parse_args()
    if arguments.engine == "ours":
        serve_jobs(run_ours(arguments.model, **arguments.config))
    else:
        serve_jobs(StaticBatches(arguments.model).run)


if __name__ == "__main__":
    main()
