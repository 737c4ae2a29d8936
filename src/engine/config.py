"""What the engine needs to know at start, as plain values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Engine = Literal["continuous", "reference"]
Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "float16", "bfloat16"]
Quantization = Literal["none", "fp16", "int8"]
Kernels = Literal["auto", "native", "pytorch"]
ToolCallFormatName = Literal["auto", "hermes", "llama3"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What to load and where to run it.

    Args:
        model_name: `storyteller`, a folder, or a hub id with an optional `@revision`.
        fallback_model_name: is served where `model_name` cannot be had; None ends the start then.
        model_cache_dir: where models from the hub are kept.
        device: `auto` is CUDA where there is one, else the CPU.
        dtype: `auto` is float32 on the CPU; on CUDA bfloat16 where both the checkpoint and the GPU
            have it, else float16.
        quantization: of the weights of linear layers on a CPU; `none` is exact.
        kernels: of float32 models on a CPU: our own, PyTorch's, or `auto`: ours where they were
            built.
        max_model_len: context in tokens; None is the model's own.
        trust_remote_code: whether Python code that comes with a model may run.
        chat_template: a file or the template itself; None is the model's own.
        tool_call_format: how the model writes calls of tools; `auto` is as its template does.
        engine: `continuous` batches requests; `reference` runs one at a time.
        max_num_seqs: sequences that run together at most.
        max_num_batched_tokens: tokens that one step computes at most; None fits the device.
        num_speculative_tokens: guessed ahead for one sequence at most; 0 guesses nothing.
        kv_cache_gb: GiB for keys and values; None is a share of what is free.
        max_queue_size: sequences that wait at most.
        max_queue_seconds: how long each waits at most.
    """

    model_name: str
    model_cache_dir: Path = Path("models")
    device: Device = "auto"
    dtype: DType = "auto"
    quantization: Quantization = "none"
    kernels: Kernels = "auto"
    max_model_len: int | None = None
    trust_remote_code: bool = False
    chat_template: str | None = None
    tool_call_format: ToolCallFormatName = "auto"
    engine: Engine = "continuous"
    max_num_seqs: int = 32
    max_num_batched_tokens: int | None = None
    num_speculative_tokens: int = 15
    kv_cache_gb: float | None = None
    max_queue_size: int = 512
    max_queue_seconds: float = 30
    fallback_model_name: str | None = None
