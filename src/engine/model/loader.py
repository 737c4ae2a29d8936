"""Loads the model that was asked for, whole and exact, or says why not.

What would quietly give another model is refused: weights that are missing from the files, another
kind of model, a tokenizer that does not belong to it.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateSyntaxError
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.normalizers import NFC
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from src.engine.config import Device, DType, EngineConfig
from src.engine.model.checkpoint_config import load_model_config
from src.engine.model.hidden_states import find_hidden_size
from src.engine.model.source import REMEDY, find_model_folder, one_line
from src.engine.model.token_ids import (
    check_tokenizer_ids,
    drop_padding_id,
    find_end_token_ids,
    find_vocab_size,
    read_named_ids,
    warn_of_unknown_ids,
)
from src.errors import InvalidRequestError, ModelLoadError
from src.text.chat_template import ChatMessage, ChatTemplate

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, and what a request needs to know of it.

    Args:
        model: in evaluation mode, on its device.
        tokenizer: the Rust library's, which takes special tokens in a text as plain text.
        eos_token_ids: the tokens that end a text.
        max_model_len: prompt and new tokens together at most.
        max_prompt_bytes: no longer text fits the context, whatever it says; None is not known.
        vocab_size: the model reads ids below this, and gives logits for them.
        embedding_size: numbers in an embedding; None if the model's hidden states cannot be had.
        chat_template: writes conversations for it; None if nobody has said how.
        tokenizer_class: HuggingFace's class that read the tokenizer's files.
        special_tokens: names such as `eos_token`, to the special tokens' texts.
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


def load_model(config: EngineConfig) -> LoadedModel:
    """Finds, checks and loads a model.

    Raises:
        ModelLoadError: with one paragraph that says what was tried and what to do.
    """
    _quieten_transformers()
    device = _choose_device(config.device)
    folder = find_model_folder(config)
    model_config = load_model_config(folder, config)
    max_model_len = _max_model_len(config, model_config)
    dtype = _choose_dtype(config.dtype, device, model_config)
    named_ids = read_named_ids(folder)
    drop_padding_id(model_config)
    tokenizer = _load_tokenizer(folder, config)
    model = _to_device(_load_weights(folder, model_config, dtype, config), device)
    backend = _plain_backend(tokenizer)
    vocab_size = find_vocab_size(model, folder)
    check_tokenizer_ids(backend, vocab_size, folder)
    warn_of_unknown_ids(named_ids, vocab_size)
    eos_token_ids = find_end_token_ids(model, tokenizer, vocab_size)
    _stop_looking_for_padding(model)
    # Requests and our settings say how to sample; `generate` would mix in what the files say.
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    return LoadedModel(
        model=model,
        tokenizer=backend,
        eos_token_ids=eos_token_ids,
        max_model_len=max_model_len,
        max_prompt_bytes=_max_prompt_bytes(backend, max_model_len),
        vocab_size=vocab_size,
        embedding_size=find_hidden_size(model),
        chat_template=_load_chat_template(tokenizer, backend, config),
        tokenizer_class=type(tokenizer).__name__,
        special_tokens=dict(tokenizer.special_tokens_map),
    )


def _quieten_transformers() -> None:
    """Its messages go where ours go, from warnings on or as LOG_LEVEL says; no bars are drawn."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    # It has a level of its own, so the root's alone would not hold its warnings back.
    transformers_logging.set_verbosity(max(logging.WARNING, logging.getLogger().level))


def _stop_looking_for_padding(model: PreTrainedModel) -> None:
    """Nothing is padded here; the padding token is a token like others, often the one of the end.

    Models would look for it in each step, and warn at the first.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.warn_if_padding_and_no_attention_mask = lambda *_: None  # type: ignore[method-assign]


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


def _load_chat_template(
    tokenizer: PreTrainedTokenizerBase, backend: Tokenizer, config: EngineConfig
) -> ChatTemplate | None:
    source = _chat_template_source(tokenizer, config)
    if source is None:
        return None
    template = ChatTemplate(source, tokenizer.special_tokens_map, backend)
    try:
        template.render([ChatMessage("user", "Hello")])
    except InvalidRequestError as error:
        if isinstance(error.__cause__, TemplateSyntaxError):
            raise ModelLoadError(
                f"The chat template is no Jinja template ({one_line(error.__cause__)}). Set"
                " CHAT_TEMPLATE to one, or to a file that holds one."
            ) from error
        _warn_of_chat_template(error)
    return template


def _warn_of_chat_template(error: InvalidRequestError) -> None:
    """Logs why the template cannot write the trial message; it may still write others."""
    cause = error.__cause__
    logger.warning(
        "the chat template cannot write a conversation of one user message (%s); each conversation"
        " that it cannot write gets 400",
        one_line(cause) if isinstance(cause, Exception) else error,
    )


def _chat_template_source(tokenizer: PreTrainedTokenizerBase, config: EngineConfig) -> str | None:
    given = config.chat_template
    if given is None:
        own = tokenizer.chat_template
        # Old checkpoints hold several, by name.
        return own.get("default") if isinstance(own, dict) else own
    if "{{" in given or "{%" in given:
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(
            f"CHAT_TEMPLATE={given} is neither a Jinja template nor a file that can be read as text"
            f" ({one_line(error)})."
        ) from error


def _max_prompt_bytes(tokenizer: Tokenizer, max_model_len: int) -> int | None:
    """How long a text can be that has `max_model_len` tokens, for byte-level tokenizers.

    There each character of a token's name stands for one byte. A normalizer may shorten a text
    first: composing characters (NFC) takes off less than three quarters of its bytes.
    """
    if not isinstance(tokenizer.decoder, ByteLevel):
        return None
    if tokenizer.normalizer is not None and not isinstance(tokenizer.normalizer, NFC):
        return None
    shrinks_by = 1 if tokenizer.normalizer is None else 4
    longest = max(len(token) for token in tokenizer.get_vocab())
    return max_model_len * longest * shrinks_by


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


def _to_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    try:
        model.to(device)  # type: ignore[arg-type]
    except torch.OutOfMemoryError as error:
        num_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        raise ModelLoadError(
            f"The model's weights take {num_bytes / 2**30:.1f} GiB, which {device} has not free."
            " Choose a smaller model, a smaller DTYPE, or DEVICE=cpu."
        ) from error
    model.eval()  # type: ignore[no-untyped-call]
    return model


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
