"""Check of exercise 1."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER = "src/bundled/storyteller"


def check(answer: dict[str, Any]) -> None:
    """Compares with the probabilities after each beginning of a text, computed one by one."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    for text in ["The capital of France is Paris.", "The capital of Paris is France."]:
        token_ids = tokenizer.encode(text)
        with torch.inference_mode():
            logits = model(torch.tensor([token_ids])).logits[0]
            beginnings = [torch.tensor([token_ids[:end]]) for end in range(1, len(token_ids))]
            rows = [model(beginning).logits[0, -1].softmax(dim=-1) for beginning in beginnings]
        expected = [float(row[one]) for row, one in zip(rows, token_ids[1:], strict=True)]
        given = answer["token_probabilities"](logits, token_ids)
        assert len(given) == len(expected), (
            f"{len(token_ids)} tokens have {len(expected)} probabilities, not {len(given)}:"
            " the first token has none."
        )
        for position, (prob, shown) in enumerate(zip(expected, given, strict=True), start=1):
            piece = tokenizer.decode([token_ids[position]])
            assert abs(prob - shown) < 1e-3, (
                f"In {text!r} the token {piece!r} has the probability {prob:.4f}, not {shown:.4f}."
            )
