"""Compares a converted model's greedy texts with HuggingFace's.

In float32 they agree until two tokens are nearly tied. In 8 bits they differ sooner, as the random
weights of the measured models amplify every rounding. The numbers then show no more than that it is
the same model.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from benchmarks.workload import Job


def reference_tokens(folder: Path, job: Job) -> list[list[int]]:
    """Returns HuggingFace's greedy tokens after each prompt; all prompts have the same length."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()  # type: ignore[no-untyped-call]
    prompts = [
        encoding.ids for encoding in tokenizer.encode_batch([r.prompt for r in job.requests])
    ]
    token_ids = torch.tensor(prompts)  # (num_prompts, prompt length)
    outputs = model.generate(
        token_ids,
        attention_mask=torch.ones_like(token_ids),
        max_new_tokens=job.requests[0].max_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    tokens: list[list[int]] = outputs[:, token_ids.shape[1] :].tolist()
    return tokens


def count_agreed(tokens: list[list[int]], reference: list[list[int]]) -> list[int]:
    """Returns for each text the number of tokens before the first difference."""
    return [
        next(
            (
                place
                for place, pair in enumerate(zip(text, expected, strict=True))
                if pair[0] != pair[1]
            ),
            len(text),
        )
        for text, expected in zip(tokens, reference, strict=True)
    ]
