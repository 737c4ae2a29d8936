"""Loads the model that was asked for, whole and exact, or says why not.

What would quietly give another model is refused: weights that are missing from the files, another
kind of model, a tokenizer that does not belong to it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from src.engine.config import Device, DType, EngineConfig
from src.engine.model_source import REMEDY, find_model_folder, one_line
from src.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, and what a request needs to know of it.

    Args:
        model: in evaluation mode, on its device.
        tokenizer: the Rust library's, which takes special tokens in a text as plain text.
        eos_token_ids: the tokens that end a text.
        max_model_len: prompt and new tokens together at most.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    eos_token_ids: list[int]
    max_model_len: int


def load_model(config: EngineConfig) -> LoadedModel:
    """Finds, checks and loads a model.

    Raises:
        ModelLoadError: with one paragraph that says what was tried and what to do.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    device = _choose_device(config.device)
    folder = find_model_folder(config)
    model_config = _load_config(folder, config)
    max_model_len = _max_model_len(config, model_config)
    dtype = _choose_dtype(config.dtype, device, model_config)
    tokenizer = _load_tokenizer(folder, config)
    model = _load_weights(folder, model_config, dtype, config).to(device).eval()  # type: ignore[arg-type]
    num_embeddings = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > num_embeddings:
        raise ModelLoadError(
            f"The tokenizer in {folder} has {len(tokenizer)} tokens and the model only"
            f" {num_embeddings}: they do not belong together. {REMEDY}"
        )
    eos_token_ids = _eos_token_ids(folder, model, tokenizer)
    # Requests and our settings say how to sample; `generate` would mix in what the files say.
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    return LoadedModel(
        model=model,
        tokenizer=_plain_backend(tokenizer),
        eos_token_ids=eos_token_ids,
        max_model_len=max_model_len,
    )


def _choose_device(device: Device) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError(
            "DEVICE=cuda was asked for, and torch sees no CUDA device here. Use DEVICE=auto or cpu,"
            " or install a CUDA build of torch and its driver."
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def _choose_dtype(dtype: DType, device: torch.device, config: PreTrainedConfig) -> torch.dtype:
    if dtype != "auto":
        return {
            "float32": torch.float32,
            "float16": torch.float16,
            "bfloat16": torch.bfloat16,
        }[dtype]
    if device.type == "cpu":
        return torch.float32
    if config.dtype == torch.bfloat16 and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float16


def _load_config(folder: Path, config: EngineConfig) -> PreTrainedConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelLoadError(
            f"The folder {folder.absolute()} holds no model: it has no config.json. {REMEDY}"
        )
    _check_kind(folder, _read_json(path), config.trust_remote_code)
    try:
        model_config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # the library raises whatever its checks raise
        raise ModelLoadError(
            f"{path} cannot be used ({one_line(error)}). Fetch or write it again. {REMEDY}"
        ) from error
    return model_config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{path} cannot be read as JSON ({one_line(error)}). Fetch or write it again. {REMEDY}"
        ) from error
    if not isinstance(raw, dict):
        raise ModelLoadError(f"{path} holds no JSON object. Fetch or write it again. {REMEDY}")
    return raw


def _check_kind(folder: Path, raw: dict[str, Any], trust_remote_code: bool) -> None:
    """Lets through a causal language model whose code transformers has, or which we may run."""
    model_type, architectures = raw.get("model_type"), raw.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    is_known = str(model_type) in CONFIG_MAPPING
    is_causal = not _causal_architectures().isdisjoint(names)
    if (is_known and is_causal) or (trust_remote_code and raw.get("auto_map")):
        return
    if raw.get("auto_map"):
        raise ModelLoadError(
            f"The model in {folder} ({', '.join(names) or model_type}) runs on Python code that"
            " comes with it (config.json, auto_map). Such code runs only with"
            f" TRUST_REMOTE_CODE=true; set it if you trust the model's authors. {REMEDY}"
        )
    if not is_known:
        raise ModelLoadError(
            f"The model in {folder} is of type {model_type} (config.json, model_type), which"
            f" transformers {transformers.__version__} does not know. A newer version may; until"
            f" then choose another model. {REMEDY}"
        )
    raise ModelLoadError(
        f"The model in {folder} is {', '.join(names) or 'of no named architecture'} (config.json,"
        " architectures), which is no causal language model: it cannot continue a text. Choose one"
        f" whose architecture ends in ForCausalLM or LMHeadModel. {REMEDY}"
    )


def _causal_architectures() -> set[str]:
    names: set[str] = set()
    values: list[Any] = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())  # names, or tuples of them
    for value in values:
        names.update([value] if isinstance(value, str) else value)
    return names


def _load_tokenizer(folder: Path, config: EngineConfig) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelLoadError(
            f"The tokenizer in {folder} cannot be loaded ({one_line(error)}). The folder needs"
            " tokenizer.json, as save_pretrained of a fast tokenizer writes it; fetch or write it"
            f" again. {REMEDY}"
        ) from error
    # Where the files are not there, some classes make up a tokenizer of special tokens alone.
    if not tokenizer.is_fast or set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise ModelLoadError(
            f"{folder} holds no tokenizer, or none in a fast form. The folder needs tokenizer.json,"
            f" as save_pretrained of a fast tokenizer writes it. {REMEDY}"
        )
    return tokenizer


def _plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The Rust tokenizer, told that a text which spells a special token is only text."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    return backend


def _load_weights(
    folder: Path, model_config: PreTrainedConfig, dtype: torch.dtype, config: EngineConfig
) -> PreTrainedModel:
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError(
            f"{folder} has no weights in safetensors form. Other forms are not read, as unpickling"
            " can run foreign code; load the model once where you trust it and write it again with"
            f" save_pretrained. {REMEDY}"
        )
    try:
        # With output_loading_info the answer is a pair, which the library's types do not say.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=model_config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except ImportError as error:
        raise ModelLoadError(
            f"The model in {folder} needs a package that is not installed here"
            f" ({one_line(error)}). Install it, or choose a model whose weights are float32,"
            f" float16 or bfloat16. {REMEDY}"
        ) from error
    except Exception as error:  # the library raises whatever its parsers raise
        raise ModelLoadError(
            f"The weights in {folder} cannot be loaded ({one_line(error)}). Fetch or write the"
            f" files again. {REMEDY}"
        ) from error
    model: PreTrainedModel = loaded[0]
    unlike = loaded[1]["missing_keys"] | {name for name, *_ in loaded[1]["mismatched_keys"]}
    if unlike:
        some = ", ".join(sorted(unlike)[:3])
        raise ModelLoadError(
            f"{len(unlike)} of the weights that {folder}/config.json asks for are not in the folder"
            f" or have another shape there, {some} among them. They would be random numbers; fetch"
            f" or write the files again. {REMEDY}"
        )
    return model


def _eos_token_ids(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    path = folder / "generation_config.json"
    if path.is_file():
        _read_json(path)  # the library passes over a broken one without a word
    ids = getattr(model.generation_config, "eos_token_id", None)
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def _max_model_len(config: EngineConfig, model_config: PreTrainedConfig) -> int:
    own = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if own is None and config.max_model_len is None:
        raise ModelLoadError(
            "The model's config names no context length; set MAX_MODEL_LEN to the number of tokens"
            " that prompt and answer may have together."
        )
    if own is not None and config.max_model_len is not None and config.max_model_len > own:
        raise ModelLoadError(
            f"MAX_MODEL_LEN={config.max_model_len} is more than the model's context of {own}"
            " tokens. Set at most that, or leave it out."
        )
    limit = config.max_model_len or own
    assert limit is not None
    return int(limit)
