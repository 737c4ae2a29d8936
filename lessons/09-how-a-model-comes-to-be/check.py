"""Check of exercise 9."""

from typing import Any

from transformers import AutoTokenizer

CONVERSATIONS = [
    "<|user|>Hi<|end|><|assistant|>Hello.<|end|>",
    "<|assistant|>Hello.<|end|><|user|>Hi<|end|>",
    "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>Hi<|end|><|user|>Bye<|end|>",
    "<|user|>Hi<|end|><|assistant|>one<|end|><|user|>more<|end|><|assistant|>two<|end|>",
    "<|user|>Hi<|end|><|assistant|>cut off",
    "<|user|>Hi<|end|>",
]


def spoken(conversation: str) -> list[str]:
    """Returns the assistant's turns with their ends."""
    turns = [turn for turn in conversation.split("<|assistant|>")[1:] if turn]
    return [turn.partition("<|end|>")[0] + turn.partition("<|end|>")[1] for turn in turns]


def check(answer: dict[str, Any]) -> None:
    """Compares the counted text with the assistant's turns."""
    tokenizer = AutoTokenizer.from_pretrained("src/bundled/storyteller")
    assistant_id, end_id = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
    for conversation in CONVERSATIONS:
        token_ids = tokenizer.encode(conversation)
        counted = answer["is_counted"](list(token_ids), assistant_id, end_id)
        assert len(counted) == len(token_ids), (
            f"{len(token_ids)} tokens have as many marks, not {len(counted)}."
        )
        pairs = zip(token_ids, counted, strict=True)
        given = tokenizer.decode([token_id for token_id, mark in pairs if mark])
        expected = "".join(spoken(conversation))
        assert given == expected, f"In {conversation!r} {expected!r} counts, not {given!r}."
