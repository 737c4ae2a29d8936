"""Loads the model of MODEL_NAME, whole and exact, or says why that is not possible.

Files that would quietly give another model are refused: missing weights, another kind of model, a
tokenizer of another model.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from tokenizers import Tokenizer
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from src.engine.config import EmbeddingConfig, EngineConfig
from src.engine.model.adapters import adapt_attention
from src.engine.model.checkpoint_config import find_max_model_len, load_model_config
from src.engine.model.embedding_config import find_embedding_config
from src.engine.model.generation_config import (
    SamplingEntries,
    find_sampling_defaults,
    read_sampling_entries,
)
from src.engine.model.gguf.checkpoint import GgufCheckpoint
from src.engine.model.gguf.names import is_gguf
from src.engine.model.hidden_states import find_hidden_size
from src.engine.model.rope import fix_rotary_frequencies
from src.engine.model.source import find_model_path
from src.engine.model.token_ids import (
    NamedId,
    check_tokenizer_ids,
    drop_padding_id,
    find_end_token_ids,
    find_vocab_size,
    read_named_ids,
    warn_of_unknown_ids,
)
from src.engine.model.tokenizer import (
    find_max_prompt_bytes,
    load_chat_template,
    load_tokenizer,
    plain_backend,
)
from src.engine.model.weights.device import choose_device, choose_dtype, move_to_device
from src.engine.model.weights.loading import load_weights
from src.engine.progress import log_phase
from src.text.chat_template import ChatTemplate


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to run, with its tokenizer and its limits.

    Args:
        model: in evaluation mode, on its device.
        tokenizer: the Rust library's, which treats special tokens in a text as plain text.
        eos_token_ids: tokens that end a text.
        max_model_len: maximum number of tokens, prompt and new tokens together.
        max_prompt_bytes: size of the longest text that may fit the context; None if unknown.
        vocab_size: the model reads, and gives logits for, token ids below this.
        embedding_size: size of an embedding; None if the hidden states are not accessible.
        embedding: pooling, prompts and sizes of embeddings.
        chat_template: renders conversations; None if the model has none.
        tokenizer_class: HuggingFace's class that read the tokenizer's files.
        special_tokens: names such as `eos_token`, to the special tokens' texts.
        sampling_defaults: the model's values of sampling parameters, by their names in
            `SamplingParams`; empty with GENERATION_CONFIG=none.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    eos_token_ids: list[int]
    max_model_len: int
    max_prompt_bytes: int | None
    vocab_size: int
    embedding_size: int | None
    chat_template: ChatTemplate | None = None
    tokenizer_class: str = ""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)


class Checkpoint(Protocol):
    """Files of a model; the weights are read by `load_weights` alone.

    Attributes:
        path: of the folder or the file, for messages.
        config: as the files give it.
    """

    path: Path
    config: PreTrainedConfig

    def find_named_ids(self) -> list[NamedId]:
        """Returns the token ids that the files name."""

    def find_sampling_entries(self) -> SamplingEntries:
        """Returns the entries of the files that give sampling parameters."""

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Loads the tokenizer with its chat template."""

    def load_weights(self, dtype: torch.dtype) -> PreTrainedModel:
        """Loads the model, on the CPU."""


class FolderCheckpoint:
    """A folder as `save_pretrained` writes it.

    Args:
        path: of the folder.
        engine_config: says whether code in the folder may run.
    """

    def __init__(self, path: Path, engine_config: EngineConfig) -> None:
        self.path = path
        self.config: PreTrainedConfig = load_model_config(path, engine_config)
        self._engine_config = engine_config

    def find_named_ids(self) -> list[NamedId]:
        """Returns the token ids that the files name."""
        return read_named_ids(self.path)

    def find_sampling_entries(self) -> SamplingEntries:
        """Returns those of generation_config.json."""
        return read_sampling_entries(self.path)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Loads the tokenizer with its chat template; see `tokenizer.py`."""
        return load_tokenizer(self.path, self._engine_config)

    def load_weights(self, dtype: torch.dtype) -> PreTrainedModel:
        """Loads the model, on the CPU; see `weights.py`."""
        return load_weights(self.path, self.config, dtype, self._engine_config)


def load_model(config: EngineConfig) -> LoadedModel:
    """Finds, checks and loads a model.

    Raises:
        ModelLoadError: one paragraph with what was tried and what to do.
    """
    _quieten_transformers()
    device = choose_device(config.device)
    with log_phase("loading config and tokenizer"):
        checkpoint = _open_checkpoint(config)
        max_model_len = find_max_model_len(config, checkpoint.config)
        dtype = choose_dtype(config.dtype, device, checkpoint.config)
        named_ids = checkpoint.find_named_ids()
        drop_padding_id(checkpoint.config)
        tokenizer = checkpoint.load_tokenizer()
    model = move_to_device(checkpoint.load_weights(dtype), device)
    fix_rotary_frequencies(model, max_model_len)
    adapt_attention(model)
    backend = plain_backend(tokenizer)
    vocab_size = find_vocab_size(model, checkpoint.path)
    check_tokenizer_ids(backend, vocab_size, checkpoint.path)
    warn_of_unknown_ids(named_ids, vocab_size)
    eos_token_ids = find_end_token_ids(model, tokenizer, vocab_size)
    _ignore_padding(model)
    # `SamplingParams` say how to sample; `generate` would add the file's entries.
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    return LoadedModel(
        model=model,
        tokenizer=backend,
        eos_token_ids=eos_token_ids,
        max_model_len=max_model_len,
        max_prompt_bytes=find_max_prompt_bytes(backend, max_model_len),
        vocab_size=vocab_size,
        embedding_size=find_hidden_size(model),
        chat_template=load_chat_template(tokenizer, backend, config),
        tokenizer_class=type(tokenizer).__name__,
        special_tokens=dict(tokenizer.special_tokens_map),
        sampling_defaults=_find_sampling_defaults(checkpoint, config),
        embedding=find_embedding_config(
            checkpoint.path, checkpoint.config, config.embedding_dimensions
        ),
    )


def _find_sampling_defaults(checkpoint: Checkpoint, config: EngineConfig) -> dict[str, float]:
    if config.generation_config == "none":
        return {}
    return find_sampling_defaults(checkpoint.find_sampling_entries())


def _open_checkpoint(config: EngineConfig) -> Checkpoint:
    path = find_model_path(config)
    return GgufCheckpoint(path) if is_gguf(path.name) else FolderCheckpoint(path, config)


def _quieten_transformers() -> None:
    """Sends transformers' warnings to this project's log; turns off its progress bars."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    # It has a level of its own, so LOG_LEVEL alone would not hold its warnings back.
    transformers_logging.set_verbosity(max(logging.WARNING, logging.getLogger().level))


def _ignore_padding(model: PreTrainedModel) -> None:
    """Stops the search for padding tokens in each step, which would warn at the first.

    Nothing is padded here, and the padding token is often the end token.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.warn_if_padding_and_no_attention_mask = lambda *_: None  # type: ignore[method-assign]
