"""Byte-pair encodings (BPE) of GGUF files: byte-level, like SentencePiece's, and Gemma's.

Each function takes the file's entries for the tokenizer by their names, without a prefix.
"""

from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers.tokenization_utils_base import generate_merges

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Splitting:
    """Behaviour of a byte-level BPE before and beside its merges.

    Args:
        pattern: of the pieces of a text; None for gpt2's.
        splits_digits: each digit is a piece of its own.
        composes: characters are composed first (NFC).
        ignores_merges: a piece that is a token is not split, whatever the merges are.
        adds_bos: default of `add_bos_token`, as in llama.cpp.
    """

    pattern: str | None = None
    splits_digits: bool = False
    composes: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False


GPT2, DIGITS = Splitting(), Splitting(splits_digits=True)
QWEN2 = Splitting(QWEN2_PATTERN, composes=True)
LLAMA3 = Splitting(LLAMA3_PATTERN, ignores_merges=True, adds_bos=True)
SPLITTINGS = {
    "gpt-2": GPT2,
    "phi-2": GPT2,
    "olmo": GPT2,
    "smollm": DIGITS,
    "starcoder": DIGITS,
    "refact": DIGITS,
    "command-r": DIGITS,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "llama-bpe": LLAMA3,
    "tekken": Splitting(TEKKEN_PATTERN, ignores_merges=True, adds_bos=True),
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
}
"""By the names of `tokenizer.ggml.pre`."""


def create_byte_level_bpe(metadata: dict[str, Any], splitting: Splitting) -> Tokenizer:
    """Creates a tokenizer in which each character of a token stands for one byte."""
    merges = [tuple(merge.split(" ")) for merge in metadata["merges"]]
    model = BPE(
        vocab=_vocabulary(metadata["tokens"]),
        merges=merges,
        ignore_merges=splitting.ignores_merges,
    )
    tokenizer = Tokenizer(model)
    steps: list[pre_tokenizers.PreTokenizer] = []
    if splitting.splits_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if splitting.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(splitting.pattern), "isolated"))
    has_pattern = splitting.pattern is not None
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not has_pattern))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    if splitting.composes:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def create_sentencepiece_bpe(metadata: dict[str, Any]) -> Tokenizer:
    """Creates a tokenizer like SentencePiece's, with byte fallback; scores give its merges."""
    scores = dict(zip(metadata["tokens"], metadata["scores"], strict=True))
    tokenizer = _with_byte_fallback(metadata["tokens"], scores, metadata)
    adds_space = metadata.get("add_space_prefix", True)
    scheme = "first" if adds_space else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
    if adds_space:
        tokenizer.decoder = decoders.Sequence([tokenizer.decoder, decoders.Strip(" ", 1, 0)])
    return tokenizer


def create_gemma_bpe(metadata: dict[str, Any]) -> Tokenizer:
    """Creates Gemma's tokenizer; the order of its tokens gives its merges.

    A file spells a token of several spaces with spaces; all others have SPACE instead.
    """
    tokens = [SPACE * len(one) if one.strip(" ") == "" else one for one in metadata["tokens"]]
    order = {token: -float(index) for index, token in enumerate(tokens)}
    tokenizer = _with_byte_fallback(tokens, order, metadata)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    return tokenizer


def _with_byte_fallback(
    tokens: list[str], scores: dict[str, float], metadata: dict[str, Any]
) -> Tokenizer:
    vocabulary = _vocabulary(tokens)
    unknown_id = metadata.get("unknown_token_id")
    model = BPE(
        vocab=vocabulary,
        merges=generate_merges(vocabulary, scores),
        unk_token=None if unknown_id is None else tokens[unknown_id],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}
