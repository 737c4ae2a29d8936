"""Builds the measured models: `python -m benchmarks.bench_model [NAME]` prints a folder.

`gpt2` has the shape of gpt2-small, `llama` that of a llama with 135 million weights and three query
heads for each head of keys. `qwen3` is as large as Qwen3-0.6B, with its context of 40,960 tokens.
Weights are random, so nothing is downloaded, and the arithmetic is that of trained models.

Two properties of trained models matter to measurements and are reproduced. The next-token
distribution is peaked: top-p 0.9 keeps some two hundred of the 50257 tokens, where plain random
weights would keep tens of thousands. Each token is visible text, so clients can count tokens. The
embeddings of the end token and of incomplete characters are zero, so their logit of 0 is far below
the others and they are never sampled.
"""

import argparse
import json
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from benchmarks.folders import made_whole
from training.documents import write_document

BENCH_FOLDER = Path(__file__).parent.parent / ".bench"
END_OF_TEXT = "<|endoftext|>"
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "dtype": "float32"}
SHAPES: dict[str, PreTrainedConfig] = {
    # transformers' defaults: 12 layers, 768 wide, 12 heads, 50257 tokens, 1024 long.
    "gpt2": GPT2Config(**SPECIAL),
    "llama": LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        **SPECIAL,
    ),
    "qwen3": Qwen3Config(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
        **SPECIAL | {"dtype": "bfloat16"},
    ),
}
FOLDERS = {
    "gpt2": "gpt2-small-random",
    "llama": "llama-135m-random",
    "qwen3": "qwen3-0.6b-random",
}
WEIGHT_STD = 0.05
"""Standard deviation of the embeddings: so large that the layers decide the next token, not the
last token's embedding.
"""
LOGITS_STD = 0.15 * 768**0.5
"""Standard deviation of the logits: sqrt(hidden_size) times the embedding's, since the last norm
gives hidden states the standard deviation 1.
"""
NUM_DOCUMENTS = 4000
REPLACEMENT = "\ufffd"


def ensure_model(name: str = "gpt2") -> Path:
    """Returns the folder of a model; builds it if it is missing."""
    folder = BENCH_FOLDER / FOLDERS[name]
    if folder.is_dir():
        return folder
    with made_whole(folder) as unfinished:
        tokenizer = train_tokenizer(SHAPES[name].vocab_size)
        tokenizer.save_pretrained(unfinished)
        model = create_model(tokenizer, SHAPES[name])
        model.to(model.config.dtype).save_pretrained(unfinished)
    return folder


def train_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE on the training corpus and fills it up with invented words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    random = Random(0)  # noqa: S311 - the same text each time
    documents = (write_document(random) for _ in range(NUM_DOCUMENTS))
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_fill_up(tokenizer, vocab_size),
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
    )


def _fill_up(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    """Adds invented words; no merge leads to them, but the model may sample them."""
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for token_id in range(len(vocabulary), vocab_size):
        vocabulary[f"Ġw{token_id}"] = token_id  # Ġ is byte-level BPE's space
    return Tokenizer.from_str(json.dumps(state))


def create_model(tokenizer: PreTrainedTokenizerFast, shape: PreTrainedConfig) -> PreTrainedModel:
    """Creates random weights with the properties that the module's docstring describes."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(shape)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=WEIGHT_STD)
    embedding = model.get_input_embeddings().weight  # (vocab_size, hidden_size); the head's too
    torch.nn.init.normal_(embedding, std=LOGITS_STD / embedding.shape[1] ** 0.5)
    texts = tokenizer.batch_decode([[token_id] for token_id in range(shape.vocab_size)])
    unspeakable = [
        token_id
        for token_id, text in enumerate(texts)
        if not text or REPLACEMENT in text or text == END_OF_TEXT
    ]
    with torch.no_grad():
        embedding[unspeakable] = 0
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", choices=SHAPES, default="gpt2")
    print(ensure_model(parser.parse_args().name))


if __name__ == "__main__":
    main()
