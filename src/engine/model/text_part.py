"""Text part of multimodal checkpoints: its config, and the names of its weights.

Such a model is a causal language model with an encoder of images before it. On text alone both give
the same logits. So the language model alone is loaded; weights of the encoder are not read.
"""

import logging
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

logger = logging.getLogger(__name__)

MULTIMODAL_ARCHITECTURES = frozenset(
    [
        "AyaVisionForConditionalGeneration",
        "Cohere2VisionForConditionalGeneration",
        "Gemma3ForConditionalGeneration",
        "Gemma3nForConditionalGeneration",
        "Gemma4ForConditionalGeneration",
        "Idefics3ForConditionalGeneration",
        "InternVLForConditionalGeneration",
        "Lfm2VlForConditionalGeneration",
        "Llama4ForConditionalGeneration",
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "LlavaOnevisionForConditionalGeneration",
        "Mistral3ForConditionalGeneration",
        "Qwen2VLForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3VLForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
        "SmolVLMForConditionalGeneration",
    ]
)
"""Those with a causal text part. PaliGemma is none: a token sees the whole of its prompt."""

EQUAL_TYPES = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
}
"""Text models without a class of their own, by type, to those that compute the same.

They rotate by the time, height and width of a token (M-RoPE), which are one position in a text.
"""

KEY_MAPPING = {
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
    r"^model\.text_model\.": "model.",
}
"""Names of weights in multimodal checkpoints, as regular expressions, to those of a text model."""


def is_multimodal(config: PreTrainedConfig) -> bool:
    """Checks whether a config is that of a multimodal checkpoint, or of its text part."""
    return not MULTIMODAL_ARCHITECTURES.isdisjoint(config.architectures or ())


def take_text_part(config: PreTrainedConfig) -> PreTrainedConfig:
    """Returns the config of a multimodal model's text part; others are returned as they are."""
    if not is_multimodal(config):
        return config
    names = ", ".join(config.architectures or ())
    logger.warning("%s: its text part is served, requests cannot have images", names)
    text: Any = config.get_text_config()
    if text.model_type in EQUAL_TYPES:
        text = _convert(text, EQUAL_TYPES[text.model_type])
    text.architectures = config.architectures
    text.tie_word_embeddings = config.tie_word_embeddings
    text.dtype = text.dtype or config.dtype
    text.eos_token_id = getattr(config, "eos_token_id", None) or text.eos_token_id
    return text  # type: ignore[no-any-return]


def find_key_mapping(config: PreTrainedConfig) -> dict[str, str] | None:
    """Returns the names of weights for `from_pretrained`; None if the files have the model's."""
    return KEY_MAPPING if is_multimodal(config) else None


def _convert(text: PreTrainedConfig, model_type: str) -> PreTrainedConfig:
    entries = text.to_dict()
    del entries["model_type"]
    for name in ("mrope_section", "mrope_interleaved"):
        entries["rope_parameters"].pop(name, None)
    converted: PreTrainedConfig = CONFIG_MAPPING[model_type](**entries)
    return converted
