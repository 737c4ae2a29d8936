"""LoRA adapters with random weights, made by peft for a tiny model."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM


def write_adapter(model: Path, folder: Path, seed: int = 0, **options: object) -> Path:
    """Writes an adapter of a model's folder with weights that change its answers."""
    torch.manual_seed(seed)
    config = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"} | options
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **config))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(folder)
    return folder


def peft_answer(model: Path, adapter: Path, prompt: list[int], max_tokens: int) -> list[int]:
    """Returns the new tokens of peft's own model, greedily."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, adapter).eval()
    inputs = torch.tensor([prompt])
    output = adapted.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()
