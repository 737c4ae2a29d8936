"""Reads a model folder's config.json, and refuses models that cannot run here."""

import json
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from src.engine.config import EngineConfig
from src.engine.model.source import REMEDY, one_line
from src.engine.model.text_part import MULTIMODAL_ARCHITECTURES, take_text_part
from src.errors import ModelLoadError

QUANTIZED_FORMATS = {
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "FP8",
    "fp8": "FP8",
    "gptq": "GPTQ",
    "modelopt": "ModelOpt",
    "mxfp4": "MXFP4",
}
"""Names for people, by `quant_method`; others keep theirs."""


def load_model_config(folder: Path, config: EngineConfig) -> PreTrainedConfig:
    """Returns the config of the model in a folder; of a multimodal one, that of its text part.

    Raises:
        ModelLoadError: there is none, it is broken, or the model cannot run here.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelLoadError(
            f"The folder {folder.absolute()} holds no model: it has no config.json. {REMEDY}"
        )
    raw = read_json(path)
    _check_quantization(folder, raw)
    _check_kind(folder, raw, config.trust_remote_code)
    if (folder / "generation_config.json").is_file():
        read_json(folder / "generation_config.json")  # transformers ignores a broken one
    try:
        model_config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # the library raises whatever its checks raise
        raise ModelLoadError(
            f"{path} cannot be used ({one_line(error)}). Fetch or write it again. {REMEDY}"
        ) from error
    return take_text_part(model_config)


def find_max_model_len(config: EngineConfig, model_config: PreTrainedConfig) -> int:
    """Returns the context in tokens: MAX_MODEL_LEN, or the model's own.

    Raises:
        ModelLoadError: the setting exceeds the model's context, or neither is known.
    """
    context = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    limit = config.max_model_len or context
    if limit is None:
        raise ModelLoadError(
            "The model's config.json names no context length. Set MAX_MODEL_LEN to the number of"
            " tokens that prompt and answer may have together."
        )
    if context is not None and limit > context:
        raise ModelLoadError(
            f"MAX_MODEL_LEN={config.max_model_len} is more than the model's context of {context}"
            " tokens. Set at most that, or leave it out."
        )
    return int(limit)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
        ModelLoadError: the file cannot be read, or does not hold an object.
    """
    try:
        raw: Any = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{path} cannot be read as JSON ({one_line(error)}). Fetch or write it again. {REMEDY}"
        ) from error
    if not isinstance(raw, dict):
        raise ModelLoadError(f"{path} holds no JSON object. Fetch or write it again. {REMEDY}")
    return raw


def _check_quantization(folder: Path, raw: dict[str, Any]) -> None:
    """Refuses checkpoints with quantized weights, before anything else of them is read."""
    nested = raw.get("text_config")
    for entries in (raw, nested if isinstance(nested, dict) else {}):
        for name in ("quantization_config", "compression_config"):
            value = entries.get(name)
            if value is None:
                continue
            method = value.get("quant_method", name) if isinstance(value, dict) else name
            method = QUANTIZED_FORMATS.get(str(method), method)
            raise ModelLoadError(
                f"The weights in {folder} are quantized in the format {method} (config.json,"
                f" {name}), which is not served yet: use the unquantized checkpoint or a GGUF file"
                f" of it, with QUANTIZATION=int8. {REMEDY}"
            )


def _check_kind(folder: Path, raw: dict[str, Any], trust_remote_code: bool) -> None:
    """Refuses models that are no causal language models, or need code that may not run."""
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
    names = set(MULTIMODAL_ARCHITECTURES)
    values: list[Any] = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())  # names, or tuples of them
    for value in values:
        names.update([value] if isinstance(value, str) else value)
    return names
