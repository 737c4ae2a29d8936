"""Trains `storyteller` from nothing: `python -m training.train [--smoke] [--resume]`.

Contract: a run has three legs, the second with drills of the slowest abilities, the third with
tools. Each has its own schedule of the learning rate. A checkpoint holds all that `--resume` needs
to continue from its step. `--from-bundled` runs the third leg alone, on the bundled weights.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from training.corpus import MAX_POSITIONS, Batch, create_batch
from training.documents import END_OF_TEXT, Leg, write_document
from training.export import SUMMARY_FILE, export_model
from training.guidance import Guide
from training.optimizers import create_optimizers, optimizer_states, set_learning_rates
from training.settings import SMOKE, TrainSettings
from training.tokenizer import CHAT_TEMPLATE, train_tokenizer

ROOT = Path(__file__).parent
BUNDLED_FOLDER = ROOT.parent / "src" / "bundled" / "storyteller"
CHECKPOINT_FOLDER = ROOT / "checkpoints"
LEGS: tuple[Leg, ...] = ("everything", "drills", "tools")
# Figures of the bundled weights that a run on top of them keeps.
KEPT_SETTINGS = ("steps", "drill_steps", "vocab_size", "num_embd", "num_layers", "num_heads")
GUIDANCE = 1.0  # weight of guidance in the third leg's loss, while its rate is full
PEAKS: dict[Leg, float] = {"everything": 1.0, "drills": 0.5, "tools": 0.6}  # learning rates


class Trainer:
    """One run: model, optimizers and the position in the schedule."""

    def __init__(self, settings: TrainSettings, tokenizer: PreTrainedTokenizerFast) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.tokenizer = tokenizer
        self.model = create_model(settings, tokenizer)
        self.optimizers = create_optimizers(self.model)
        self.guide = Guide(tokenizer, settings.previous_heads, settings.source_heads)
        self.step = 0  # in the schedule
        self.continues_bundled = False
        self.elapsed = 0.0  # seconds of training, over all resumptions
        self.num_steps = 0
        self.num_tokens = 0

    @property
    def is_done(self) -> bool:
        return self.step >= sum(self.settings.lengths)

    @property
    def leg(self) -> Leg:
        """The current leg's settings."""
        drills_start, tools_start = accumulate(self.settings.lengths[:2])
        if self.step >= tools_start:
            return "tools"
        return "drills" if self.step >= drills_start else "everything"

    @property
    def is_guided(self) -> bool:
        """Returns guidance's weight: full until the third leg's learning rate falls, then 0."""
        return self.leg == "tools" and self.progress < 1 - self.settings.decay_share

    @property
    def progress(self) -> float:
        """Returns the finished share of the current leg, 0 to 1."""
        index = LEGS.index(self.leg)
        lengths = self.settings.lengths
        return (self.step - sum(lengths[:index])) / lengths[index]

    def train_step(self) -> float:
        """Applies one update on this step's batch; returns its loss."""
        started = time.perf_counter()
        batch = self.create_batch()
        set_learning_rates(self.optimizers, self.learning_rate_factor())
        loss = compute_loss(self.model, batch, self.guide if self.is_guided else None)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.num_steps += 1
        self.num_tokens += batch.positions.numel()
        self.elapsed += time.perf_counter() - started
        return loss.item()

    def create_batch(self) -> Batch:
        """Returns the batch of the current step."""
        settings = self.settings
        block_size = settings.tool_block_size if self.leg == "tools" else settings.block_size
        if self.progress >= 1 - settings.long_share:
            block_size = MAX_POSITIONS
        num_rows = max(1, settings.tokens_per_step // block_size)
        seed = f"{settings.seed}/{self.step}"
        return create_batch(self.tokenizer, seed, num_rows, block_size, self.leg)

    def learning_rate_factor(self) -> float:
        """Returns the learning rate's factor: a plateau, then linear decay to nearly 0, in each leg
        (WSD).

        The first and the third leg warm up: both may start with new optimizers.
        """
        start = sum(self.settings.lengths[:2]) if self.leg == "tools" else 0
        warmup = min(1.0, (self.step - start + 1) / self.settings.warmup_steps)
        decay = min(1.0, (1 - self.progress) / self.settings.decay_share)
        return warmup * PEAKS[self.leg] * max(decay, 0.01)

    def save(self, folder: Path) -> None:
        """Writes the checkpoint atomically, so an interrupted run never leaves half a file."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimizers": optimizer_states(self.optimizers),
            "step": self.step,
            "continues_bundled": self.continues_bundled,
            "elapsed": self.elapsed,
            "num_steps": self.num_steps,
            "num_tokens": self.num_tokens,
        }
        torch.save(state, folder / "checkpoint.tmp")
        (folder / "checkpoint.tmp").replace(folder / "checkpoint.pt")

    def restore(self, folder: Path) -> None:
        """Continues from the checkpoint in `folder`."""
        state: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.num_steps, self.num_tokens = state["num_steps"], state["num_tokens"]
        self.continues_bundled = state["continues_bundled"]


def compute_loss(model: GPT2LMHeadModel, batch: Batch, guide: Guide | None = None) -> torch.Tensor:
    """Returns the mean cross entropy of the next tokens that count, and the guide's loss."""
    # Without a mask transformers reads the positions as packed sequences, and is 3 times slower.
    output = model.transformer(
        input_ids=batch.tokens[:, :-1],
        position_ids=batch.positions,
        attention_mask=torch.ones_like(batch.positions),
        use_cache=False,
        output_hidden_states=guide is not None,
    )
    hidden = output.last_hidden_state  # (rows, length, width)
    logits = model.lm_head(hidden[batch.counts])  # (counted, vocab): the costly part
    loss = cross_entropy(logits, batch.tokens[:, 1:][batch.counts])
    if guide is None:
        return loss
    return loss + GUIDANCE * guide.compute_loss(model, output.hidden_states, batch)


def continue_bundled(settings: TrainSettings) -> Trainer:
    """Creates a run of the third leg alone, from the bundled weights and with new optimizers."""
    summary = json.loads((BUNDLED_FOLDER / SUMMARY_FILE).read_text())
    kept = {name: summary["settings"][name] for name in KEPT_SETTINGS}
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_FOLDER)
    tokenizer.chat_template = CHAT_TEMPLATE
    trainer = Trainer(replace(settings, **kept), tokenizer)
    bundled = GPT2LMHeadModel.from_pretrained(BUNDLED_FOLDER, dtype=torch.float32)
    trainer.model.load_state_dict(bundled.state_dict())
    trainer.step, trainer.continues_bundled = kept["steps"] + kept["drill_steps"], True
    trainer.elapsed = summary["minutes"] * 60
    trainer.num_steps, trainer.num_tokens = summary["steps"], summary["tokens"]
    return trainer


def create_model(settings: TrainSettings, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Creates a GPT-2 with random weights; its tanh GELU is the fused equivalent of GPT-2's own."""
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
    """Returns the run's tokenizer; the same settings give the same tokenizer."""
    random = Random(f"tokenizer/{settings.seed}")
    texts = (write_document(random) + END_OF_TEXT for _ in range(settings.tokenizer_documents))
    return train_tokenizer(texts, settings.vocab_size)


def run(trainer: Trainer, output: Path, checkpoints: Path, note: str) -> None:
    """Trains to the end of the schedule and exports the model to `output`."""
    settings = trainer.settings
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
    write_summary(trainer, output, note)


def write_summary(trainer: Trainer, folder: Path, note: str) -> None:
    """Writes and prints the figures that the model card quotes."""
    summary = {
        "settings": asdict(trainer.settings),
        "continues_bundled": trainer.continues_bundled,
        "note": note,
        "steps": trainer.num_steps,
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
    parser.add_argument("--tool-steps", type=int, help="length of the third leg")
    parser.add_argument(
        "--from-bundled", action="store_true", help="the third leg alone, on the bundled weights"
    )
    parser.add_argument("--note", default="", help="what the model card has to say about this run")
    arguments = parser.parse_args()
    settings = SMOKE if arguments.smoke else TrainSettings()
    lengths = {name: getattr(arguments, name) for name in ("steps", "drill_steps", "tool_steps")}
    settings = replace(settings, **{name: v for name, v in lengths.items() if v is not None})
    if arguments.from_bundled:
        trainer = continue_bundled(settings)
    else:
        trainer = Trainer(settings, create_tokenizer(settings))
    if arguments.resume:
        trainer.restore(arguments.checkpoints)
        print(f"resuming at step {trainer.step}", flush=True)
    run(trainer, arguments.output, arguments.checkpoints, arguments.note)


if __name__ == "__main__":
    main()
