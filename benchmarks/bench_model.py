"""Builds the model that is measured: `python -m benchmarks.bench_model` prints its folder.

It has the shape of gpt2-small and random weights, so nothing is downloaded and the arithmetic is
that of the real one. Two things of a trained model matter to who measures a server, and are made
here: its next-token distribution is peaked (top-p 0.9 keeps some two hundred of the 50257 tokens,
where plain random weights would keep tens of thousands), and each token is visible text, so clients
can count them. The end token and pieces of characters have an embedding of zeros, whose logit of 0
is so far below the others that they are never chosen.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from training.documents import write_document

BENCH_FOLDER = Path(__file__).parent.parent / ".bench"
END_OF_TEXT = "<|endoftext|>"
SHAPE = GPT2Config(bos_token_id=0, eos_token_id=0, pad_token_id=0, dtype="float32")
"""transformers' defaults are gpt2-small: 12 layers, 768 wide, 12 heads, 50257 tokens, 1024 long."""
WEIGHT_STD = 0.05
"""Large enough that the layers, not the last token's embedding, decide what comes next."""
EMBEDDING_STD = 0.15
"""Logits have a standard deviation of sqrt(768) times this."""
NUM_DOCUMENTS = 4000
REPLACEMENT = "\ufffd"


def ensure_model() -> Path:
    """Returns the folder of the model, which is built if it is not there."""
    folder = BENCH_FOLDER / "gpt2-small-random"
    if folder.is_dir():
        return folder
    BENCH_FOLDER.mkdir(exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=BENCH_FOLDER))
    try:
        tokenizer = train_tokenizer()
        tokenizer.save_pretrained(unfinished)
        create_model(tokenizer).save_pretrained(unfinished)
        unfinished.rename(folder)  # all of it or nothing
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    return folder


def train_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of the training corpus, filled up with made-up words that no text has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE.vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    random = Random(0)  # noqa: S311 - the same text each time
    documents = (write_document(random) for _ in range(NUM_DOCUMENTS))
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_fill_up(tokenizer), eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def _fill_up(tokenizer: Tokenizer) -> Tokenizer:
    """Adds made-up words: no merge leads to them, but the model may say them."""
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for token_id in range(len(vocabulary), SHAPE.vocab_size):
        vocabulary[f"Ġw{token_id}"] = token_id  # Ġ is byte-level BPE's space
    return Tokenizer.from_str(json.dumps(state))


def create_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Random weights; see the module's docstring for what is not left to chance."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(SHAPE)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=WEIGHT_STD)
    embedding = model.transformer.wte.weight  # (vocab_size, 768); the output layer's too
    torch.nn.init.normal_(embedding, std=EMBEDDING_STD)
    texts = tokenizer.batch_decode([[token_id] for token_id in range(SHAPE.vocab_size)])
    unspeakable = [
        token_id
        for token_id, text in enumerate(texts)
        if not text or REPLACEMENT in text or text == END_OF_TEXT
    ]
    with torch.no_grad():
        embedding[unspeakable] = 0
    return model


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(ensure_model())


if __name__ == "__main__":
    main()
