"""What the engine needs to know at start, as plain values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What to load and where to run it.

    Args:
        model_name: `storyteller`, a folder, or a hub id with an optional `@revision`.
        model_cache_dir: where models from the hub are kept.
        device: `auto` is CUDA where there is one, else the CPU.
        dtype: `auto` is float32 on the CPU; on CUDA bfloat16 where both the checkpoint and the GPU
            have it, else float16.
        max_model_len: context in tokens; None is the model's own.
        trust_remote_code: whether Python code that comes with a model may run.
    """

    model_name: str
    model_cache_dir: Path = Path("models")
    device: Device = "auto"
    dtype: DType = "auto"
    max_model_len: int | None = None
    trust_remote_code: bool = False
