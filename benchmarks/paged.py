"""Measures the paged KV cache and attention over it: `python -m benchmarks.paged [PART ...]`.

- shared: 32 requests at once, with the same 1,000 tokens first
- turns: the second turn of a chat, with other chats in between
- decode: a layer's attention of decoding sequences, by their number and length
- prefill: a layer's attention of a chunk of a prompt, by the tokens before it
- quality: perplexity by KV_CACHE_DTYPE, of a trained model on the text of docs/

The model has the shape of Qwen3-0.6B, unless --model names another one. `decode` and `prefill`
need no model, and `quality` needs `make real-models`, or another trained model as --model.
"""

import math
import statistics
import sys
import time
from argparse import Namespace
from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer

from benchmarks.bench_model import ensure_model
from benchmarks.prompts import Prompts
from benchmarks.report import create_parser, measure_all, milliseconds, parse, table
from benchmarks.servers import Server, serve_ours
from benchmarks.systems import UNAIDED, clients
from benchmarks.workload import BenchmarkError, Job, Request
from src.cli.measurement import quantile
from src.engine.attention.kv_cache import CacheLayout, KVCache, LayerShape
from src.engine.attention.packed_attention import PackedAttention
from src.engine.attention.packed_step import Segment, Step
from src.engine.backend import TORCH_BACKEND, Backend, choose_backend
from src.engine.config import EngineConfig
from src.engine.factory import BLOCK_SIZE, create_core
from src.engine.model.loader import load_model
from src.engine.request import Request as EngineRequest
from src.engine.sampling_params import SamplingParams

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 16, 8, 128
BYTES = 4  # float32
NUM_USERS = 32
SYSTEM_TOKENS, QUESTION_TOKENS = 1000, 16
CHUNK = 128
TEXT_TOKENS = 2000
ROOT = Path(__file__).parent.parent
DOCS, SMOLLM2 = ROOT / "docs", ROOT / ".real-models" / "SmolLM2-135M-Instruct"
CACHED_TOKENS = "cached_prompt_tokens_total"
SIZE = 1024
"""Width of the matrix product that attention is compared with."""


def shared(arguments: Namespace) -> str:
    """Time to first token of 32 requests with one system prompt, and the memory that they take."""
    prompts = Prompts(arguments.model)
    rows = []
    with serve(arguments) as server, clients(server.url) as run:
        run(prompts.job(4, 4))
        for _ in range(arguments.repeats):
            before = server.memory()
            system = prompts.take(SYSTEM_TOKENS)
            questions = [prompts.take(QUESTION_TOKENS) for _ in range(NUM_USERS)]
            requests = [Request(f"{system}\n{question}", 16) for question in questions]
            traces = run(Job(requests, NUM_USERS))
            first = sorted(trace.time_to_first_token for trace in traces)
            gaps = [gap for trace in traces for gap in trace.gaps]
            times = first[0], statistics.median(first), first[-1], max(gaps)
            rows.append([*map(milliseconds, times), f"{server.memory() - before:.0f}"])
    header = ["first TTFT", "median TTFT", "last TTFT", "longest gap", "MiB more"]
    return table(header, rows)


def turns(arguments: Namespace) -> str:
    """Time to first token of a second turn after 16 other chats with the same system prompt."""
    prompts = Prompts(arguments.model)
    rows = []
    with serve(arguments) as server, clients(server.url) as run:
        run(prompts.job(4, 4))
        for _ in range(arguments.repeats):
            system = prompts.take(600)
            chat = f"{system}\n{prompts.take(400)}"
            (first,) = run(Job([Request(chat, 4)], 1))
            others = [Request(f"{system}\n{prompts.take(100)}", 4) for _ in range(16)]
            run(Job(others, 4))
            before = server.sample(CACHED_TOKENS)
            (second,) = run(Job([Request(f"{chat}\n{prompts.take(16)}", 4)], 1))
            times = first.time_to_first_token, second.time_to_first_token
            num_cached = server.sample(CACHED_TOKENS) - before
            rows.append([*map(milliseconds, times), f"{num_cached:.0f}"])
    return table(["TTFT of the first turn", "of the second", "tokens found"], rows)


def serve(arguments: Namespace) -> AbstractContextManager[Server]:
    """Serves the model, with a context that older layouts of the KV cache can hold too."""
    return serve_ours(str(arguments.model), max_model_len=2048, **UNAIDED)


def decode(arguments: Namespace) -> str:
    """Milliseconds and GB/s of keys and values, medians; beside them the speed of a plain sum."""
    rows = []
    for num_sequences in (1, 8, 32):
        for num_tokens in (100, 1000, 8000):
            num_bytes = 2 * num_sequences * num_tokens * NUM_KV_HEADS * HEAD_DIM * BYTES
            times = time_steps(arguments, [num_tokens] * num_sequences, 1)
            numbers = torch.ones(num_bytes // BYTES)
            times.append(time_call(numbers.sum, arguments.repeats))
            speeds = [f"{num_bytes / seconds / 1e9:.1f}" for seconds in times]
            cells = zip(map(milliseconds, times), speeds, strict=True)
            rows.append([num_sequences, num_tokens, *(cell for pair in cells for cell in pair)])
    kinds = ["PyTorch's", "GB/s", "ours", "GB/s", "sum", "GB/s"]
    return table(["sequences", "tokens", *kinds], rows)


def prefill(arguments: Namespace) -> str:
    """Milliseconds and GFLOP/s of a chunk, medians; beside them those of a matrix product."""
    linear = torch.nn.Linear(SIZE, SIZE, bias=False)
    backend = native_backend()
    layer = backend.create_linear(linear.weight, None, "none")
    inputs = torch.randn(CHUNK, SIZE)
    product = 2 * CHUNK * SIZE**2 / time_call(partial(layer, inputs), 5 * arguments.repeats)
    rows = []
    for before in (0, 896, 3968, 8064):
        keys = sum(range(before + 1, before + CHUNK + 1))
        work = 4 * keys * NUM_HEADS * HEAD_DIM
        times = time_steps(arguments, [before + CHUNK], CHUNK)
        cells = [(milliseconds(seconds), f"{work / seconds / 1e9:.0f}") for seconds in times]
        rows.append([before, *(cell for pair in cells for cell in pair), f"{product / 1e9:.0f}"])
    kinds = ["PyTorch's", "GFLOP/s", "ours", "GFLOP/s", "product's GFLOP/s"]
    return table(["tokens before", *kinds], rows)


def time_steps(arguments: Namespace, ends: list[int], num_tokens: int) -> list[float]:
    """Returns the median times of a layer's attention, by PyTorch and by our own kernels.

    Args:
        arguments: of the command.
        ends: number of tokens of each sequence, with the new ones.
        num_tokens: number of new tokens of each.
    """
    size, device = BLOCK_SIZE["cpu"], torch.device("cpu")
    counts = [-(-end // size) for end in ends]
    shapes = {0: LayerShape(NUM_KV_HEADS, HEAD_DIM, HEAD_DIM)}
    cache = KVCache(shapes, CacheLayout(sum(counts), size, torch.float32), device)
    for tensor in (cache.keys[0], cache.values[0]):
        tensor.normal_()
    order = torch.randperm(sum(counts)).split(counts)
    segments = [
        Segment(array("i", blocks.tolist()), end - num_tokens, end)
        for blocks, end in zip(order, ends, strict=True)
    ]
    rows = num_tokens * len(ends)
    query, key, value = (
        torch.randn(1, heads, rows, HEAD_DIM) for heads in (NUM_HEADS, NUM_KV_HEADS, NUM_KV_HEADS)
    )
    times = []
    for backend in (TORCH_BACKEND, native_backend()):
        attend = PackedAttention(cache, backend.attention)
        attend.step = Step.create(segments, size, device)
        call = partial(attend, Namespace(layer_idx=0), query, key, value, None)  # type: ignore[arg-type]
        times.append(time_call(call, arguments.repeats))
    return times


def quality(arguments: Namespace) -> str:
    """Perplexity, and the largest difference of a token's log-probability from float32's cache."""
    folder = SMOLLM2 if arguments.model == ensure_model("qwen3").resolve() else arguments.model
    if not folder.is_dir():
        raise BenchmarkError(f"{folder.name} is missing: make real-models")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "\n".join(page.read_text() for page in sorted(DOCS.glob("*.md")))
    token_ids = tokenizer.encode(text).ids
    starts = range(0, len(token_ids) - TEXT_TOKENS, TEXT_TOKENS)[: 1 if arguments.quick else 16]
    texts = [token_ids[start : start + TEXT_TOKENS] for start in starts]
    exact: list[float] = []
    rows = []
    for dtype in ("float32", "float16", "bfloat16"):
        logprobs = score(EngineConfig(str(folder), kv_cache_dtype=dtype), texts)
        exact = exact or logprobs
        difference = max(abs(one - other) for one, other in zip(logprobs, exact, strict=True))
        perplexity = math.exp(-statistics.fmean(logprobs))
        rows.append([dtype, f"{perplexity:.4f}", f"{difference:.2g}"])
    return table(["KV_CACHE_DTYPE", "perplexity", "largest difference in nats"], rows)


def score(config: EngineConfig, texts: list[list[int]]) -> list[float]:
    """Returns the log-probability of each token of the texts but their first ones."""
    core = create_core(load_model(config), config)
    params = SamplingParams(max_tokens=1, prompt_logprobs=0)
    logprobs: list[float] = []
    for number, token_ids in enumerate(texts):
        core.add(EngineRequest(str(number), token_ids, params))
        while core.has_work:
            for output in core.step().outputs:
                logprobs += [one.chosen.logprob for one in output.prompt_logprobs]
    return logprobs


def native_backend() -> Backend:
    """Returns the backend of our own kernels."""
    return choose_backend("native", is_float32_on_cpu=True)


@torch.inference_mode()
def time_call(call: Callable[[], object], repeats: int) -> float:
    """Returns the median time of a call; the first one is a warm-up."""
    times = []
    for _ in range(2 * repeats + 1):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return quantile(times[1:], 0.5)


PARTS: dict[str, Callable[[Namespace], str]] = {
    "shared": shared,
    "turns": turns,
    "decode": decode,
    "prefill": prefill,
    "quality": quality,
}


def main() -> None:
    """Prints one part after the other; the exit status is 1 if one failed."""
    parser = create_parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.set_defaults(model=ensure_model("qwen3"))
    arguments = parse(parser)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    sys.exit(measure_all({name: PARTS[name] for name in arguments.parts or PARTS}, arguments))


if __name__ == "__main__":
    main()
