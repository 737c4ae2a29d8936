"""`EngineConfig`: the settings of the engine, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from src.engine.lora.settings import LoraSettings

EngineName = Literal["continuous", "reference"]
Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "float16", "bfloat16"]
Quantization = Literal["none", "fp16", "int8"]
CacheDType = Literal["auto", "float32", "float16", "bfloat16"]
Kernels = Literal["auto", "native", "pytorch"]
ToolCallFormatName = Literal[
    "auto",
    "hermes",
    "qwen3_coder",
    "glm45",
    "glm47",
    "mistral_v3",
    "mistral_v11",
    "mistral_v13",
    "deepseek_v3",
    "deepseek_v31",
    "gemma4",
    "llama3",
]
GenerationConfigName = Literal["auto", "none"]
Pooling = Literal["mean", "last", "cls"]
"""Pooling of the last hidden states: their mean, that of the last token, that of the first one."""
ReasoningFormatName = Literal["auto", "none", "think"]

SETTING_NAMES = {"max_num_seqs": "max_batch_size", "max_queue_seconds": "queue_timeout_seconds"}
"""Fields of `EngineConfig` to settings of another name."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The model to load, and how to run it.

    `src.config.Settings` has an entry for each field, which documents it and checks its bounds. It
    has the field's name but for `SETTING_NAMES`. Defaults are the same.
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
    reasoning_format: ReasoningFormatName = "auto"
    enable_thinking: bool | None = None
    generation_config: GenerationConfigName = "auto"
    embedding_dimensions: str = "auto"
    engine: EngineName = "continuous"
    max_num_seqs: int = 32
    max_num_batched_tokens: int | None = None
    num_speculative_tokens: int = 15
    kv_cache_gb: float | None = None
    kv_cache_dtype: CacheDType = "auto"
    max_queue_size: int = 512
    max_queue_seconds: float = 30
    fallback_model_name: str | None = None
    lora: LoraSettings | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingConfig:
    """Embeddings of a model.

    Args:
        pooling: of its hidden states.
        prompts: texts to put before an input, by name.
        default_prompt_name: the one of inputs that name none; None for no text.
        dimensions: sizes to which embeddings may be cut (Matryoshka representations; Kusupati et
            al. 2022, arXiv:2205.13147); empty if the model was not trained for it.
        has_any_dimension: they may be cut to any size.
        obstacle: reason why embeddings of these files cannot be computed; None if they can be.
    """

    pooling: Pooling = "mean"
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    dimensions: frozenset[int] = frozenset()
    has_any_dimension: bool = False
    obstacle: str | None = None
