"""Writes a trained model as a folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

Contract: float16 safetensors, tokenizer, chat template and both configs; `evaluate.py` writes the
model card.
"""

import copy
from pathlib import Path

from transformers import GenerationConfig, GPT2LMHeadModel, PreTrainedTokenizerFast

from training.documents import END_OF_TEXT, END_OF_TURN

SUMMARY_FILE = "training.json"


def export_model(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Saves a float16 copy of `model` beside its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(model).half()  # type: ignore[no-untyped-call]
    half.generation_config = create_generation_config(tokenizer)
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def create_generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Returns sampling defaults; generation ends at the end of a document or of a turn."""
    end_of_text = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    end_of_turn = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    return GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=end_of_text,
        eos_token_id=[end_of_text, end_of_turn],
        pad_token_id=end_of_text,
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
    )
