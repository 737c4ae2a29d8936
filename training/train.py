"""Trains `storyteller` from nothing: `python -m training.train [--smoke] [--resume]`.

Contract: a run has two legs, the second with drills of what is learned slowest, and each has its
own schedule of the learning rate; a checkpoint holds all that `--resume` needs to go on from its
step.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from training.corpus import END_OF_TEXT, MAX_POSITIONS, create_batch, write_document
from training.export import SUMMARY_FILE, export_model
from training.optimizers import create_optimizers, optimizer_states, set_learning_rates
from training.tokenizer import train_tokenizer

ROOT = Path(__file__).parent
BUNDLED_FOLDER = ROOT.parent / "src" / "bundled" / "storyteller"
CHECKPOINT_FOLDER = ROOT / "checkpoints"
DRILL_PEAK = 0.5  # of the learning rate, in the second leg


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Size, length and pace of a run."""

    steps: int = 2011  # on everything, and then
    drill_steps: int = 1000  # with drills of what is learned slowest
    vocab_size: int = 4096
    num_embd: int = 192
    num_layers: int = 6
    num_heads: int = 4
    tokens_per_step: int = 4096
    block_size: int = 256
    long_share: float = 0.08  # of each leg, at its end, on blocks of MAX_POSITIONS
    warmup_steps: int = 80
    decay_share: float = 0.55
    tokenizer_documents: int = 20_000
    log_every: int = 20
    checkpoint_every: int = 200
    seed: int = 1


SMOKE = TrainSettings(
    steps=40,
    drill_steps=20,
    vocab_size=1024,
    num_embd=64,
    num_layers=2,
    num_heads=2,
    tokens_per_step=1024,
    warmup_steps=5,
    tokenizer_documents=500,
    log_every=10,
    checkpoint_every=20,
)


class Trainer:
    """One run: model, optimizers and the position in the schedule."""

    def __init__(self, settings: TrainSettings, tokenizer: PreTrainedTokenizerFast) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.tokenizer = tokenizer
        self.model = create_model(settings, tokenizer)
        self.optimizers = create_optimizers(self.model)
        self.step = 0
        self.elapsed = 0.0  # seconds of training, over all resumptions
        self.num_tokens = 0

    @property
    def is_drilling(self) -> bool:
        """Whether the run is in its second leg."""
        return self.step >= self.settings.steps

    @property
    def is_done(self) -> bool:
        return self.step >= self.settings.steps + self.settings.drill_steps

    @property
    def progress(self) -> float:
        """How much of the current leg is done, 0 to 1."""
        if self.is_drilling:
            return (self.step - self.settings.steps) / self.settings.drill_steps
        return self.step / self.settings.steps

    def train_step(self) -> float:
        """One update on the batch that belongs to this step; returns its loss."""
        started = time.perf_counter()
        settings = self.settings
        is_long = self.progress >= 1 - settings.long_share
        block_size = MAX_POSITIONS if is_long else settings.block_size
        num_rows = max(1, settings.tokens_per_step // block_size)
        seed = f"{settings.seed}/{self.step}"
        batch = create_batch(self.tokenizer, seed, num_rows, block_size, self.is_drilling)
        set_learning_rates(self.optimizers, self.learning_rate_factor())
        loss = compute_loss(self.model, batch.tokens, batch.positions)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.num_tokens += num_rows * block_size
        self.elapsed += time.perf_counter() - started
        return loss.item()

    def learning_rate_factor(self) -> float:
        """Warm-up, a plateau, then a straight line to nearly 0, in each leg (WSD schedule).

        The second leg starts from half the rate.
        """
        warmup = min(1.0, (self.step + 1) / self.settings.warmup_steps)
        decay = min(1.0, (1 - self.progress) / self.settings.decay_share)
        peak = DRILL_PEAK if self.is_drilling else 1.0
        return warmup * peak * max(decay, 0.01)

    def save(self, folder: Path) -> None:
        """Writes the checkpoint in one go, so that an interrupted run never leaves half a file."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimizers": optimizer_states(self.optimizers),
            "step": self.step,
            "elapsed": self.elapsed,
            "num_tokens": self.num_tokens,
        }
        torch.save(state, folder / "checkpoint.tmp")
        (folder / "checkpoint.tmp").replace(folder / "checkpoint.pt")

    def restore(self, folder: Path) -> None:
        """Goes on from the checkpoint in `folder`."""
        state: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.num_tokens = state["num_tokens"]


def compute_loss(
    model: GPT2LMHeadModel, tokens: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Mean cross entropy of each next token. `tokens`: (rows, length + 1)."""
    # Without a mask transformers reads the positions as packed sequences, and is 3 times slower.
    mask = torch.ones_like(positions)
    logits = model(
        input_ids=tokens[:, :-1], position_ids=positions, attention_mask=mask, use_cache=False
    ).logits  # (rows, length, vocab)
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def create_model(settings: TrainSettings, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """A GPT-2 with random weights; its tanh GELU is the fused equivalent of GPT-2's own."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MAX_POSITIONS,
        n_embd=settings.num_embd,
        n_layer=settings.num_layers,
        n_head=settings.num_heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    return GPT2LMHeadModel(config)


def create_tokenizer(settings: TrainSettings) -> PreTrainedTokenizerFast:
    """The run's tokenizer; the same settings give the same tokenizer."""
    random = Random(f"tokenizer/{settings.seed}")
    texts = (write_document(random) + END_OF_TEXT for _ in range(settings.tokenizer_documents))
    return train_tokenizer(texts, settings.vocab_size)


def run(settings: TrainSettings, output: Path, checkpoints: Path, resume: bool) -> None:
    """Trains to the end of the schedule and exports the model to `output`."""
    trainer = Trainer(settings, create_tokenizer(settings))
    if resume:
        trainer.restore(checkpoints)
        print(f"resuming at step {trainer.step}", flush=True)
    while not trainer.is_done:
        loss = trainer.train_step()
        if trainer.step % settings.log_every == 0:
            speed = trainer.num_tokens / trainer.elapsed
            print(
                f"step {trainer.step} loss {loss:.4f} "
                f"{speed:.0f} tokens/s {trainer.elapsed / 60:.1f} min",
                flush=True,
            )
        if trainer.step % settings.checkpoint_every == 0:
            trainer.save(checkpoints)
    trainer.save(checkpoints)
    export_model(trainer.model, trainer.tokenizer, output)
    write_summary(trainer, output)


def write_summary(trainer: Trainer, folder: Path) -> None:
    """Leaves the figures that the model card quotes, and prints them."""
    summary = {
        "settings": asdict(trainer.settings),
        "steps": trainer.step,
        "tokens": trainer.num_tokens,
        "minutes": round(trainer.elapsed / 60, 1),
        "parameters": trainer.model.num_parameters(),
    }
    (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary), flush=True)


def main() -> None:
    """Reads the command line and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a tiny model, in about a minute")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--output", type=Path, default=BUNDLED_FOLDER, help="exported folder")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINT_FOLDER)
    parser.add_argument("--steps", type=int, help="length of the first leg")
    parser.add_argument("--drill-steps", type=int, help="length of the second leg")
    arguments = parser.parse_args()
    settings = SMOKE if arguments.smoke else TrainSettings()
    lengths = {name: getattr(arguments, name) for name in ("steps", "drill_steps")}
    settings = replace(settings, **{name: v for name, v in lengths.items() if v is not None})
    run(settings, arguments.output, arguments.checkpoints, arguments.resume)


if __name__ == "__main__":
    main()
