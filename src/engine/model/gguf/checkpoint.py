"""A model in GGUF files, as the loader needs it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from src.engine.model.gguf.architectures import (
    Architecture,
    create_config,
    find_architecture,
    weight_name,
)
from src.engine.model.gguf.entries import ROPE_FACTORS
from src.engine.model.gguf.reader import StoredTensor, read_gguf
from src.engine.model.gguf.tokenizer import find_special_ids, load_gguf_tokenizer
from src.engine.model.source import REMEDY, one_line
from src.engine.model.token_ids import NamedId, find_named_ids
from src.engine.model.weights import check_names
from src.errors import ModelLoadError


class GgufCheckpoint:
    """Config, tokenizer and weights of a model, all from its GGUF files.

    Args:
        path: of one of the files.
    """

    def __init__(self, path: Path) -> None:
        self._file = read_gguf(path)
        self.path = self._file.path
        self._ids = find_special_ids(self._file)
        self.config: PreTrainedConfig = create_config(self._file, self._ids)

    def find_named_ids(self) -> list[NamedId]:
        """Returns the token ids that the files name."""
        return find_named_ids(self.path, self._ids)

    def load_tokenizer(self) -> Tokenizer:
        """Builds the tokenizer; see `load_gguf_tokenizer`."""
        return load_gguf_tokenizer(self._file)

    def load_weights(self, dtype: torch.dtype) -> PreTrainedModel:
        """Loads the model with its weights as floats.

        Raises:
            ModelLoadError: weights are missing or of another shape.
        """
        architecture = find_architecture(self._file)
        tensors = {
            weight_name(self._file, architecture, name): _LazyTensor(
                name, stored, architecture, self.config
            )
            for name, stored in self._file.tensors.items()
            if name != ROPE_FACTORS
        }
        try:
            model, info = _from_state(self.config, tensors, dtype)
        except Exception as error:  # the libraries raise whatever their parsers raise
            raise ModelLoadError(
                f"The weights in {self.path} cannot be loaded ({one_line(error)}). Fetch the file"
                f" again. {REMEDY}"
            ) from error
        check_names(self.path, info)
        unused = sorted(info["unexpected_keys"])
        if unused:
            raise ModelLoadError(
                f"{self.path} has {len(unused)} tensors that its metadata do not ask for,"
                f" {', '.join(unused[:3])} among them: it is broken, or a kind of model that cannot"
                f" be read from GGUF files here. Fetch the model in safetensors form. {REMEDY}"
            )
        return model


class _LazyTensor:
    """A weight that is read when transformers takes it, as a slice of a safetensors file is."""

    def __init__(
        self, name: str, stored: StoredTensor, architecture: Architecture, config: PreTrainedConfig
    ) -> None:
        self._name = name
        self._stored = stored
        self._architecture = architecture
        self._config = config

    def __getitem__(self, _: object) -> torch.Tensor:
        return self._architecture.convert(self._name, self._stored.read(), self._config)


def _from_state(
    config: PreTrainedConfig, tensors: Mapping[str, _LazyTensor], dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Returns the model, and the names of weights that are not as its config asks."""
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    # The library's types do not say that the result is a pair.
    result: Any = model_class.from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # `check_names` refuses them by name
    )
    model, info = result
    return model, info
