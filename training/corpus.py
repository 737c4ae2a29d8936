"""Batches: documents cut into packed rows of token ids.

Contract: a batch depends on nothing but seed and step, so training resumes without a saved data
position. Documents end with `<|endoftext|>`; most rows begin with a document at position 0, the
others in the middle of one at a random position, so that every position embedding is trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import torch
from transformers import PreTrainedTokenizerFast

from training.documents import (
    END_OF_TEXT,
    END_OF_TURN,
    ROLE_TOKENS,
    Document,
    Leg,
    create_document,
)

MAX_POSITIONS = 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows. `tokens`: (num_rows, block_size + 1), `positions`: (num_rows, block_size).

    `counts` marks the positions with a loss for the token after them.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    counts: torch.Tensor


def create_batch(
    tokenizer: PreTrainedTokenizerFast,
    seed: str,
    num_rows: int,
    block_size: int,
    leg: Leg = "everything",
) -> Batch:
    """Creates the batch of a `seed`, which names run and step."""
    random = Random(seed)
    rows, counts, starts = [], [], []
    for _ in range(num_rows):
        from_start = random.random() < 0.6
        starts.append(0 if from_start else random.randint(0, MAX_POSITIONS - block_size))
        documents = partial(create_document, random, leg)
        skipped = None if from_start else random.random()
        row, counted = _create_row(tokenizer, documents, block_size + 1, skipped)
        rows.append(row)
        counts.append(counted[1:])
    positions = torch.tensor(starts)[:, None] + torch.arange(block_size)
    return Batch(torch.tensor(rows), positions, torch.tensor(counts))


def _create_row(
    tokenizer: PreTrainedTokenizerFast,
    documents: Callable[[], Document],
    length: int,
    skipped: float | None,
) -> tuple[list[int], list[bool]]:
    """Concatenates documents to `length` tokens, with marks of those that count.

    A share of `skipped` of the first document is left out, unless its counted part refers to it.
    """
    encode = tokenizer.backend_tokenizer.encode
    tokens: list[int] = []
    counts: list[bool] = []
    while len(tokens) < length:
        document = documents()
        ids = encode(document.text + END_OF_TEXT).ids
        counted = [True] * len(ids)
        if document.speech_only:
            counted = _is_assistants(ids, tokenizer)
        elif skipped is not None:
            start = int(skipped * len(ids))
            ids, counted = ids[start:], counted[start:]
        skipped = None
        tokens += ids
        counts += counted
    return tokens[:length], counts[:length]


def _is_assistants(ids: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> list[bool]:
    """Marks the assistant's tokens: those of its turns, and the marks that end them."""
    assistant = tokenizer.convert_tokens_to_ids(ROLE_TOKENS["assistant"])
    ends = tokenizer.convert_tokens_to_ids([END_OF_TURN, END_OF_TEXT])
    speaks = False
    counts = []
    for token in ids:
        counts.append(speaks)
        speaks = token == assistant or (speaks and token not in ends)
    return counts
