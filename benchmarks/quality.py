"""Measures the loss of quality by quantization: `python -m benchmarks.quality [--help]`.

Prints the perplexity of two trained models on documents that their training never sees: the bundled
one, and one trained for this. For these and for the random model of the speed measurements it
prints the divergence from the exact distributions. Our own kernels compute if they are built.
"""

import math
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from benchmarks.report import create_parser, parse, table
from benchmarks.trained_model import ensure_trained_model
from src.engine.backend import choose_backend
from src.engine.config import Quantization
from src.engine.cpu_layers.replace import replace_layers
from training.corpus import Batch, create_batch
from training.train import BUNDLED_FOLDER

NUM_BATCHES, NUM_ROWS, NUM_TOKENS = 12, 16, 256


def compare(arguments: Namespace) -> str:
    """Creates a row for each kind of quantization and model."""
    num_batches = 1 if arguments.quick else NUM_BATCHES
    rows = []
    for name, folder, batches in (
        ("storyteller", BUNDLED_FOLDER, list(_documents(num_batches))),
        ("llama, trained", ensure_trained_model(), list(_documents(num_batches))),
        ("gpt2-small's shape, random", arguments.model, list(_random_tokens(arguments.model))),
    ):
        exact = _load(folder, "none")
        for quantization in get_args(Quantization):
            other = _load(folder, quantization)
            loss, divergence, agreement = measure(exact, other, batches)
            # No text is predictable to a random model.
            perplexity = f"{math.exp(loss):.4f}" if folder != arguments.model else ""
            rows.append(
                [name, quantization, perplexity, f"{divergence:.2g}", f"{100 * agreement:.2f} %"]
            )
    header = ["model", "QUANTIZATION", "perplexity", "divergence in nats", "same best token"]
    return table(header, rows)


def _load(folder: Path, quantization: Quantization) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    replace_layers(model, quantization, choose_backend("auto", True).create_linear)
    return model


def _documents(num_batches: int) -> Iterator[Batch]:
    """Returns the documents of the model card's perplexity."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_FOLDER)
    for number in range(num_batches):
        yield create_batch(tokenizer, f"exam/{number}", NUM_ROWS, NUM_TOKENS)


def _random_tokens(folder: Path) -> Iterator[Batch]:
    vocab_size = len(AutoTokenizer.from_pretrained(folder))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (1, NUM_TOKENS + 1), generator=generator)
    positions = torch.arange(NUM_TOKENS)[None]
    yield Batch(tokens, positions, torch.ones_like(positions, dtype=torch.bool))


@torch.inference_mode()
def measure(
    exact: PreTrainedModel, other: PreTrainedModel, batches: list[Batch]
) -> tuple[float, float, float]:
    """Returns the other model's loss, its divergence from the exact one, and the share of equal
    best tokens.
    """
    results = []
    for batch in batches:
        expected, actual = (_log_probs(model, batch) for model in (exact, other))
        following = batch.tokens[:, 1:][batch.counts]
        loss = -actual.gather(-1, following[:, None]).mean()
        divergence = (expected.exp() * (expected - actual)).sum(dim=-1).mean()
        agreement = (expected.argmax(dim=-1) == actual.argmax(dim=-1)).float().mean()
        results.append(torch.stack([loss, divergence, agreement]))
    loss, divergence, agreement = torch.stack(results).mean(dim=0)
    return loss.item(), divergence.item(), agreement.item()


def _log_probs(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Returns log-probabilities, (counted tokens, vocab_size)."""
    logits: torch.Tensor = model(
        input_ids=batch.tokens[:, :-1],
        position_ids=batch.positions,
        attention_mask=torch.ones_like(batch.positions),
        use_cache=False,
    ).logits
    return logits[batch.counts].log_softmax(dim=-1)


def main() -> None:
    """Prints the table."""
    print(compare(parse(create_parser(__doc__))))


if __name__ == "__main__":
    main()
