"""Trains a second model for measurements of quality: `python -m benchmarks.trained_model`.

A llama with grouped heads that trains on the bundled model's corpus, with its tokenizer, for a
minute or two. Its texts are poor, but its weights and activations are those of training.
"""

from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.bench_model import BENCH_FOLDER
from benchmarks.folders import made_whole
from training.corpus import create_batch
from training.train import BUNDLED_FOLDER

FOLDER = BENCH_FOLDER / "llama-trained"
NUM_STEPS, NUM_ROWS, NUM_TOKENS = 250, 16, 128
LEARNING_RATE = 2e-3
WARM_UP = 0.1
"""Share of the steps in which the learning rate rises; then it falls to zero."""


def ensure_trained_model() -> Path:
    """Returns the folder of the model; trains it if it is missing."""
    if FOLDER.is_dir():
        return FOLDER
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_FOLDER)
    with made_whole(FOLDER) as unfinished:
        tokenizer.save_pretrained(unfinished)
        train(tokenizer).save_pretrained(unfinished)
    return FOLDER


def train(tokenizer: AutoTokenizer) -> LlamaForCausalLM:
    """Trains with fixed seeds: the same weights each time on the same machine."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=NUM_STEPS, pct_start=WARM_UP
    )
    for step in range(NUM_STEPS):
        batch = create_batch(tokenizer, f"second/{step}", NUM_ROWS, NUM_TOKENS)
        mask = torch.ones_like(batch.positions)
        hidden = model.model(
            input_ids=batch.tokens[:, :-1],
            position_ids=batch.positions,
            attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(hidden[batch.counts])
        loss = cross_entropy(logits, batch.tokens[:, 1:][batch.counts])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def main() -> None:
    print(ensure_trained_model())


if __name__ == "__main__":
    main()
