"""The bundled model as users load it, and enough of the text that it was trained on."""

from functools import cache
from pathlib import Path
from random import Random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel
from transformers import PreTrainedTokenizerFast as Tokenizer

from training.documents import write_document
from training.train import LEGS

BUNDLED_FOLDER = Path(__file__).parents[2] / "src" / "bundled" / "storyteller"


@cache
def documents() -> tuple[str, ...]:
    """Enough training text to hold it against claims about all of it."""
    random = Random("test documents")
    return tuple(write_document(random, LEGS[number % 3]) for number in range(9000))


@cache
def bundled() -> tuple[GPT2LMHeadModel, Tokenizer]:
    """The committed weights, as users load them."""
    model = AutoModelForCausalLM.from_pretrained(BUNDLED_FOLDER, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(BUNDLED_FOLDER)


def complete(prompt: str, num_tokens: int = 40) -> str:
    """The bundled model's greedy completion, special tokens included."""
    model, tokenizer = bundled()
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(
        **inputs, max_new_tokens=num_tokens, do_sample=False, temperature=None, top_p=None
    )
    return str(tokenizer.decode(output[0, inputs.input_ids.shape[1] :]))
