"""Tokenizers and special tokens of GGUF files.

A file has tokens, merges and the name of a way to split texts before BPE. A name that is not known
here is refused, as the tokens would not be those of the model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from src.engine.model.gguf.bpe import (
    SPLITTINGS,
    create_byte_level_bpe,
    create_gemma_bpe,
    create_sentencepiece_bpe,
)
from src.engine.model.gguf.entries import architecture_name
from src.engine.model.gguf.reader import GgufFile
from src.engine.model.source import REMEDY, one_line
from src.errors import ModelLoadError

SPECIAL_TOKENS = {
    f"{name}_token": f"{key}_token_id"
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
}
"""transformers' names to GGUF's."""

END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""End of a text, of a turn and of a message."""

CONTROL, USER_DEFINED = 3, 4
"""Types of tokens that are found in a text before BPE; the first are special tokens."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of tokenizer.

    Args:
        create: returns the tokenizer of a file's metadata, without added tokens.
        adds_bos: default of `add_bos_token`, as in llama.cpp.
    """

    create: Callable[[dict[str, Any]], Tokenizer]
    adds_bos: bool


def load_gguf_tokenizer(file: GgufFile) -> PreTrainedTokenizerFast:
    """Builds the tokenizer of a file, with its chat template.

    Raises:
        ModelLoadError: there is none, it is broken, or of a kind that is not known.
    """
    kind = _find_kind(file)
    try:
        return _build(_metadata(file), kind)
    except Exception as error:  # the libraries raise whatever their parsers raise
        raise ModelLoadError(
            f"The tokenizer in {file.path} cannot be loaded ({one_line(error)}). Fetch the file"
            f" again. {REMEDY}"
        ) from error


def find_special_ids(file: GgufFile) -> dict[str, Any]:
    """Returns the ids of special tokens as entries of a config; several tokens may end a text."""
    metadata = _metadata(file)
    ids = {f"{name}_id": metadata[key] for name, key in SPECIAL_TOKENS.items() if key in metadata}
    ends = list(dict.fromkeys(metadata[key] for key in END_KEYS if key in metadata))
    return ids | ({"eos_token_id": ends} if ends else {})


def _metadata(file: GgufFile) -> dict[str, Any]:
    """Returns the entries for the tokenizer, without their prefixes."""
    prefix = "tokenizer."
    entries = {key: value for key, value in file.metadata.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix).removeprefix("ggml."): entries[key] for key in entries}


def _find_kind(file: GgufFile) -> _Kind:
    metadata = _metadata(file)
    kind, splitting_name = metadata.get("model"), metadata.get("pre")
    if kind == "llama":
        is_gemma = architecture_name(file).startswith("gemma")
        return _Kind(create_gemma_bpe if is_gemma else create_sentencepiece_bpe, adds_bos=True)
    if kind != "gpt2":
        raise ModelLoadError(
            f"{file.path} has a tokenizer of the kind {kind}; those that can be read from GGUF"
            f" files here are gpt2 and llama. Fetch the model in safetensors form. {REMEDY}"
        )
    splitting = SPLITTINGS.get(str(splitting_name))
    if splitting is None:
        raise ModelLoadError(
            f"{file.path} has a tokenizer that splits texts by the rules {splitting_name}"
            f" (tokenizer.ggml.pre); those known here are {', '.join(SPLITTINGS)}. Fetch the model"
            f" in safetensors form, or a GGUF file made by a current llama.cpp. {REMEDY}"
        )
    return _Kind(lambda entries: create_byte_level_bpe(entries, splitting), splitting.adds_bos)


def _build(metadata: dict[str, Any], kind: _Kind) -> PreTrainedTokenizerFast:
    backend, tokens = kind.create(metadata), metadata["tokens"]
    types = metadata.get("token_type", [])
    vocabulary = backend.get_vocab()
    backend.add_tokens(
        [
            AddedToken(token, normalized=False, special=kind_of_token == CONTROL)
            for token, kind_of_token in zip(tokens, types, strict=False)
            if kind_of_token in {CONTROL, USER_DEFINED} and token in vocabulary
        ]
    )
    named = {name: tokens[metadata[key]] for name, key in SPECIAL_TOKENS.items() if key in metadata}
    adds_bos = metadata.get("add_bos_token", kind.adds_bos)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        add_bos_token=adds_bos and "bos_token" in named,
        add_eos_token=metadata.get("add_eos_token", False),
        chat_template=metadata.get("chat_template"),
        **{name: named.get(name) for name in SPECIAL_TOKENS},
    )
