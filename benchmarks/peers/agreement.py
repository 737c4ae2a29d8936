"""Whether a converted model is the same model: its greedy texts beside HuggingFace's.

In float32 they are the same for as long as no two tokens are as good as tied. In 8 bits they part
sooner, and the models measured have random weights, which enlarge every rounding: then the numbers
say only that it is no other model.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from benchmarks.workload import Job


def reference_tokens(folder: Path, job: Job) -> list[list[int]]:
    """HuggingFace's greedy tokens after each prompt; all prompts have as many tokens."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()  # type: ignore[no-untyped-call]
    prompts = [one.ids for one in tokenizer.encode_batch([r.prompt for r in job.requests])]
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
    """Of each text, the number of tokens before the first that is another."""
    return [
        next(
            (
                place
                for place, pair in enumerate(zip(one, other, strict=True))
                if pair[0] != pair[1]
            ),
            len(one),
        )
        for one, other in zip(tokens, reference, strict=True)
    ]
