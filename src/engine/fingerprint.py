"""Fingerprint of a loaded model: changes with what the answer to a seed depends on.

It covers the versions of this service, PyTorch and transformers; the model's configuration,
sampling defaults, tokenizer, chat template and context length; a sample of each weight; and device,
number format, quantization, engine and kernels. Weights that differ outside of the sample, and
processors with the same kernels, have the same fingerprint.
"""

import hashlib
import json
from collections.abc import Iterator

import torch
import transformers

from src import __version__
from src.engine.config import EngineConfig
from src.engine.kernels.build import usable_variants
from src.engine.model.loader import LoadedModel

NUM_DIGITS = 10
SAMPLE_SIZE = 16
"""Least count of numbers from a larger weight; fine-tuning changes nearly all of its numbers."""


def find_fingerprint(loaded: LoadedModel, config: EngineConfig) -> str:
    """Returns ten hexadecimal digits.

    Args:
        loaded: the model, before an engine replaces its layers.
        config: the options that it was loaded with.
    """
    digest = hashlib.sha256()
    for part in _parts(loaded, config):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()[:NUM_DIGITS]


def _parts(loaded: LoadedModel, config: EngineConfig) -> Iterator[bytes]:
    template = loaded.chat_template.source if loaded.chat_template else ""
    defaults = json.dumps(dict(loaded.sampling_defaults), sort_keys=True)
    texts = (
        *(__version__, torch.__version__, transformers.__version__),
        *(config.engine, config.quantization, _kernels(config), _device_name(loaded.model.device)),
        *(str(loaded.max_model_len), template, loaded.tokenizer.to_str(), _model_config(loaded)),
        defaults,
    )
    for text in texts:
        yield text.encode("utf-8", "surrogatepass")
    for name, weight in loaded.model.state_dict().items():
        yield f"{name} {weight.dtype} {tuple(weight.shape)}".encode()
        yield _sample(weight)


def _kernels(config: EngineConfig) -> str:
    return "pytorch" if config.kernels == "pytorch" else " ".join(usable_variants()[:1])


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _model_config(loaded: LoadedModel) -> str:
    """Returns the configuration as JSON, without the folder that it was read from."""
    fields = loaded.model.config.to_dict()
    fields.pop("_name_or_path", None)
    return json.dumps(fields, sort_keys=True, default=str)


def _sample(weight: torch.Tensor) -> bytes:
    """Returns the bytes of numbers at even distances."""
    flat = weight.detach().reshape(-1)
    numbers = flat[:: max(1, flat.numel() // SAMPLE_SIZE)].contiguous().cpu()
    return numbers.view(torch.uint8).numpy().tobytes()
