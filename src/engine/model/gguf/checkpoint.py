"""A model in GGUF files, as the loader needs it."""

from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from src.engine.model.generation_config import SamplingEntries
from src.engine.model.gguf.architectures import (
    Convert,
    create_config,
    find_architecture,
    weight_name,
)
from src.engine.model.gguf.entries import ROPE_FACTORS, sampling_entries
from src.engine.model.gguf.reader import StoredTensor, read_gguf
from src.engine.model.gguf.tokenizer import find_special_ids, load_gguf_tokenizer
from src.engine.model.source import REMEDY, one_line
from src.engine.model.token_ids import NamedId, find_named_ids
from src.engine.model.weights.loading import build_model, check_names
from src.engine.model.weights.stored import WeightSource
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

    def find_sampling_entries(self) -> SamplingEntries:
        """Returns the metadata that give sampling parameters."""
        return sampling_entries(self._file)

    def load_tokenizer(self) -> Tokenizer:
        """Builds the tokenizer; see `load_gguf_tokenizer`."""
        return load_gguf_tokenizer(self._file)

    def load_weights(self, dtype: torch.dtype) -> PreTrainedModel:
        """Loads the model with its weights as floats.

        Raises:
            ModelLoadError: weights are missing or of another shape.
        """
        architecture = find_architecture(self._file)
        weights = {
            weight_name(self._file, architecture, name): WeightSource(
                partial(self._read, architecture.convert, name, stored), stored.num_bytes
            )
            for name, stored in self._file.tensors.items()
            if name != ROPE_FACTORS
        }
        try:
            model, info = build_model(self.config, weights, dtype)
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

    def _read(self, convert: Convert, name: str, stored: StoredTensor) -> torch.Tensor:
        return convert(name, stored.read(), self.config)
