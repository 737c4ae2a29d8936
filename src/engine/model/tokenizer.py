"""Loads a model's tokenizer and chat template, or says why they cannot be used."""

import logging
from pathlib import Path

from jinja2 import TemplateSyntaxError
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.normalizers import NFC
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from src.engine.config import EngineConfig
from src.engine.model.source import REMEDY, one_line
from src.errors import InvalidRequestError, ModelLoadError
from src.text.chat_template import ChatMessage, ChatTemplate

logger = logging.getLogger(__name__)

NFC_SHRINKS_BY = 4
"""Composing characters removes less than three quarters of a text's bytes."""


def load_tokenizer(folder: Path, config: EngineConfig) -> PreTrainedTokenizerBase:
    """Loads HuggingFace's tokenizer from a folder.

    Raises:
        ModelLoadError: there is none, it is broken, or it has no fast form.
    """
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
    # Without files, some classes create a tokenizer of special tokens alone.
    if not tokenizer.is_fast or len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise ModelLoadError(
            f"{folder} holds no tokenizer, or none in a fast form. The folder needs tokenizer.json,"
            f" as save_pretrained of a fast tokenizer writes it. {REMEDY}"
        )
    return tokenizer


def plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Returns the Rust tokenizer, set to treat special tokens in a text as plain text."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    return backend


def find_max_prompt_bytes(tokenizer: Tokenizer, max_model_len: int) -> int | None:
    """Returns the size of the longest text that may have `max_model_len` tokens.

    Known for byte-level tokenizers only, in which each character of a token stands for one byte;
    None for others.
    """
    if not isinstance(tokenizer.decoder, ByteLevel):
        return None
    if tokenizer.normalizer is not None and not isinstance(tokenizer.normalizer, NFC):
        return None
    shrinks_by = 1 if tokenizer.normalizer is None else NFC_SHRINKS_BY
    longest = max(len(token) for token in tokenizer.get_vocab())
    return max_model_len * longest * shrinks_by


def load_chat_template(
    tokenizer: PreTrainedTokenizerBase, backend: Tokenizer, config: EngineConfig
) -> ChatTemplate | None:
    """Returns the chat template of CHAT_TEMPLATE or of the model; None if there is none.

    Raises:
        ModelLoadError: it cannot be read, or is not valid Jinja.
    """
    source = _chat_template_source(tokenizer, config)
    if source is None:
        return None
    template = ChatTemplate(source, tokenizer.special_tokens_map, backend)
    try:
        template.render([ChatMessage("user", "Hello")])
    except InvalidRequestError as error:
        if isinstance(error.__cause__, TemplateSyntaxError):
            raise ModelLoadError(
                f"The chat template is not valid Jinja ({one_line(error.__cause__)}). Set"
                " CHAT_TEMPLATE to a valid template, or to a file that holds one."
            ) from error
        _warn_of_chat_template(error)
    return template


def _warn_of_chat_template(error: InvalidRequestError) -> None:
    """Logs the reason why the template cannot render the trial message."""
    cause = error.__cause__
    logger.warning(
        "the chat template cannot render a conversation of one user message (%s); conversations"
        " that it cannot render get 400",
        one_line(cause) if isinstance(cause, Exception) else error,
    )


def _chat_template_source(tokenizer: PreTrainedTokenizerBase, config: EngineConfig) -> str | None:
    setting = config.chat_template
    if setting is None:
        template = tokenizer.chat_template
        # Old checkpoints hold several, by name.
        return template.get("default") if isinstance(template, dict) else template
    if "{{" in setting or "{%" in setting:
        return setting
    try:
        return Path(setting).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(
            f"CHAT_TEMPLATE={setting} is neither a Jinja template nor a file that can be read as"
            f" text ({one_line(error)})."
        ) from error
