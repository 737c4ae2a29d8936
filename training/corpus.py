"""The training text: a seeded, endless mixture of documents, cut into packed rows of token ids.

Contract: a batch depends on nothing but seed and step, so training resumes without a saved data
position. Documents end with `<|endoftext|>`; most rows begin with a document at position 0, the
others in the middle of one at a random position, so that every position embedding is trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from random import Random

import torch
from transformers import PreTrainedTokenizerFast

from training import words
from training.dialogue import Turn, write_conversation, write_drill
from training.families import Fact, all_facts
from training.grammar import Bindings
from training.statements import write_statement
from training.stories import write_story
from training.sums import write_sums

END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|end|>"
ROLE_TOKENS = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}
MAX_POSITIONS = 1024
# Shares of documents; stories are several times longer than the rest.
STORY_SHARE, STATEMENT_SHARE = 0.30, 0.20
# In the second leg, documents that drill what is learned slowest: sums, copying into JSON, and
# characters whose kind says whether a name and a pronoun can be theirs.
SUMS_SHARE, DRILL_SHARE, GENDERED_SHARE = 0.30, 0.20, 0.18


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows. `tokens`: (num_rows, block_size + 1), `positions`: (num_rows, block_size)."""

    tokens: torch.Tensor
    positions: torch.Tensor


@cache
def training_facts() -> tuple[Fact, ...]:
    """All facts; evaluation holds out phrasings of them, not the facts."""
    return tuple(all_facts())


def render(turns: Sequence[Turn]) -> str:
    """A conversation as text, exactly as the chat template writes it."""
    return "".join(f"{ROLE_TOKENS[t.role]}{t.content}{END_OF_TURN}" for t in turns)


def write_document(random: Random, with_drills: bool = False) -> str:
    """One training document without its end mark."""
    if with_drills and (drill := _write_drill(random)):
        return drill
    draw = random.random()
    if draw < STORY_SHARE:
        return write_story(random)
    if draw < STORY_SHARE + STATEMENT_SHARE:
        return write_statement(random, training_facts())
    return render(write_conversation(random, training_facts()))


def _write_drill(random: Random) -> str | None:
    """A document of the second leg, or None where it has what the first has."""
    draw = random.random()
    if draw < SUMS_SHARE:
        return write_sums(random)
    if draw < SUMS_SHARE + DRILL_SHARE:
        return render(write_drill(random, training_facts()))
    if draw < SUMS_SHARE + DRILL_SHARE + GENDERED_SHARE:
        return write_story(random, _gendered_characters(random))
    return None


def _gendered_characters(random: Random) -> Bindings:
    """A hero, a friend or both, of kinds that are female or male."""
    bindings: Bindings = {}
    who = random.choice(("hero", "friend", "both"))
    for character, kind_slot in (("hero", "kind"), ("friend", "fkind")):
        if who in (character, "both"):
            gender = random.choice(("f", "m"))
            kinds = words.FEMALE_KINDS if gender == "f" else words.MALE_KINDS
            kind = random.choice([kind for kind in kinds if kind != bindings.get("kind")])
            bindings |= {kind_slot: kind, f"{character}_gender": gender}
    return bindings


def create_batch(
    tokenizer: PreTrainedTokenizerFast,
    seed: str,
    num_rows: int,
    block_size: int,
    with_drills: bool = False,
) -> Batch:
    """The batch that belongs to `seed` (which names run and step)."""
    random = Random(seed)
    rows, starts = [], []
    for _ in range(num_rows):
        from_start = random.random() < 0.6
        starts.append(0 if from_start else random.randint(0, MAX_POSITIONS - block_size))
        documents = partial(write_document, random, with_drills)
        skipped = None if from_start else random.random()
        rows.append(_create_row(tokenizer, documents, block_size + 1, skipped))
    positions = torch.tensor(starts)[:, None] + torch.arange(block_size)
    return Batch(torch.tensor(rows), positions)


def _create_row(
    tokenizer: PreTrainedTokenizerFast,
    documents: Callable[[], str],
    length: int,
    skipped: float | None,
) -> list[int]:
    """Documents end to end, `length` tokens; of the first, a share of `skipped` is left out."""
    encode = tokenizer.backend_tokenizer.encode
    tokens: list[int] = []
    while len(tokens) < length:
        ids = encode(documents() + END_OF_TEXT).ids
        if skipped is not None:
            ids, skipped = ids[int(skipped * len(ids)) :], None
        tokens += ids
    return tokens[:length]
