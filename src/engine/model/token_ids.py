"""Token ids in a model's files, checked against its embeddings and logits.

An id out of range is an index error in the first request with it, and on CUDA the end of the
process. A model is refused if such ids are used in a computation. Other ids out of range (padding,
end tokens) are dropped with a warning.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from src.engine.model.checkpoint_config import read_json
from src.engine.model.source import REMEDY
from src.errors import ModelLoadError

logger = logging.getLogger(__name__)

FILES = ("config.json", "generation_config.json")
SUFFIX = "_token_id"
"""End of the names of entries for token ids, such as eos_token_id."""

MAX_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class NamedId:
    """A token id in a file.

    Args:
        file: name of the file.
        name: of the entry.
        token_id: any integer; it need not be in the vocabulary.
    """

    file: str
    name: str
    token_id: int


def read_named_ids(folder: Path) -> list[NamedId]:
    """Returns the token ids in config.json, its `text_config`, and generation_config.json.

    Raises:
        ModelLoadError: an entry is neither an integer nor a list of integers.
    """
    named: list[NamedId] = []
    for file in FILES:
        if (folder / file).is_file():
            raw = read_json(folder / file)
            nested = raw.get("text_config")
            for entries in (raw, nested if isinstance(nested, dict) else {}):
                named += find_named_ids(folder / file, entries)
    return named


def find_named_ids(path: Path, entries: dict[str, Any]) -> list[NamedId]:
    """Returns the token ids among a file's entries.

    Raises:
        ModelLoadError: an entry is neither an integer nor a list of integers.
    """
    named: list[NamedId] = []
    for name, value in entries.items():
        if not name.endswith(SUFFIX) or value is None:
            continue
        token_ids = value if isinstance(value, list) else [value]
        if any(isinstance(one, bool) or not isinstance(one, int) for one in token_ids):
            raise ModelLoadError(
                f"{path} has {name}={repr(value)[:MAX_SHOWN]}, which is neither a token id nor a"
                " list of token ids: these are integers. Correct it, or fetch the file again."
                f" {REMEDY}"
            )
        named += [NamedId(path.name, name, one) for one in token_ids]
    return named


def warn_of_unknown_ids(named: Iterable[NamedId], vocab_size: int) -> None:
    """Logs each named id that is not below `vocab_size`; no computation uses them."""
    for one in named:
        if not 0 <= one.token_id < vocab_size:
            logger.warning(
                "%s has %s=%d, and the model's token ids are 0 to %d: it is ignored",
                one.file,
                one.name,
                one.token_id,
                vocab_size - 1,
            )


def drop_padding_id(config: PreTrainedConfig) -> None:
    """Removes a padding id that is out of range: `torch.nn.Embedding` would refuse it.

    Nothing is padded here, so this does not change the model.
    """
    for part in {id(one): one for one in (config, config.get_text_config())}.values():
        padding_id = getattr(part, "pad_token_id", None)
        size = getattr(part, "vocab_size", None)
        if padding_id is not None and size is not None and not 0 <= padding_id < size:
            part.pad_token_id = None


def find_vocab_size(model: PreTrainedModel, folder: Path) -> int:
    """Returns the number of token ids that the model both reads and gives logits for.

    Raises:
        ModelLoadError: it gives logits for ids that it cannot read.
    """
    num_embeddings = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    num_logits = int(getattr(head, "out_features", num_embeddings))
    if num_logits > num_embeddings:
        raise ModelLoadError(
            f"The model in {folder} gives logits for {num_logits} tokens and has embeddings of only"
            f" {num_embeddings}: it could draw tokens that it cannot read. Write its files again,"
            f" with layers of one size. {REMEDY}"
        )
    return min(num_embeddings, num_logits)


def check_tokenizer_ids(tokenizer: Tokenizer, vocab_size: int, folder: Path) -> None:
    """Refuses a tokenizer with token ids that the model does not have.

    Checks the highest id instead of the number of tokens, because ids may have gaps. The ids of a
    post-processor (tokenizer.json) need not be in the vocabulary, so two texts are encoded too.

    Raises:
        ModelLoadError: an id is not below `vocab_size`.
    """
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    encodings = tokenizer.encode_batch(["", "a"])
    added = max((token_id for one in encodings for token_id in one.ids), default=0)
    if max(highest, added) >= vocab_size:
        raise ModelLoadError(
            f"The tokenizer in {folder} gives token ids up to {max(highest, added)}, and the"
            f" model's end at {vocab_size - 1}: they do not belong together. Fetch both again, from"
            f" one source. {REMEDY}"
        )


def find_end_token_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> list[int]:
    """Returns the ids that end a text: the model's, or the tokenizer's if the model names none.

    Ids out of the vocabulary are left out, because no such token is ever sampled.
    """
    ids = getattr(model.generation_config, "eos_token_id", None)
    named = [ids] if isinstance(ids, int) else list(ids or ())
    known = [token_id for token_id in named if 0 <= token_id < vocab_size]
    fallback = tokenizer.eos_token_id
    if not known and isinstance(fallback, int) and 0 <= fallback < vocab_size:
        known = [fallback]
    return list(dict.fromkeys(known))
