"""Text comes out whole: the deltas add up, no half characters, no piece of a stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.text.detokenizer import IncrementalDetokenizer
from tests.support.tiny_models import (
    END,
    VOCAB_SIZE,
    create_byte_fallback_tokenizer,
    create_tokenizer,
)

TOKENIZER = create_tokenizer().backend_tokenizer


def encode(text: str) -> list[int]:
    return TOKENIZER.encode_batch([text])[0].ids


def detokenize(
    token_ids: list[int], stop: tuple[str, ...] = (), prompt: str = ""
) -> tuple[list[str], IncrementalDetokenizer]:
    detokenizer = IncrementalDetokenizer(TOKENIZER, encode(prompt), stop)
    deltas = [detokenizer.push(token_id) for token_id in token_ids]
    return [*deltas, detokenizer.finish()], detokenizer


@given(text=st.text(st.characters(codec="utf-8"), max_size=60), prompt=st.text(max_size=10))
def test_deltas_add_up_to_the_text(text, prompt):
    # Replacement characters at the very end cannot be told from a character that was cut.
    text = text.rstrip("\ufffd")
    deltas, _ = detokenize(encode(text), prompt=prompt.encode("utf-8", "replace").decode())
    assert "".join(deltas) == text


@given(token_ids=st.lists(st.integers(1, VOCAB_SIZE - 1), max_size=60))
def test_any_tokens_decode_as_all_at_once(token_ids):
    deltas, _ = detokenize(token_ids)
    whole = TOKENIZER.decode(token_ids, skip_special_tokens=True)
    assert "".join(deltas).rstrip("\ufffd") == whole.rstrip("\ufffd")


@given(data=st.data(), text=st.text("abcé😀 ", min_size=1, max_size=40))
def test_a_stop_string_and_what_follows_never_come_out(data, text):
    stops = st.text("abcé😀 ", min_size=1, max_size=4)
    stop = tuple(data.draw(st.lists(stops, min_size=1, max_size=3)))
    token_ids = encode(text)
    deltas, detokenizer = detokenize(token_ids, stop)
    expected, stopped = text_until_stop(token_ids, stop)
    assert "".join(deltas) == expected
    assert detokenizer.stopped == stopped


def text_until_stop(token_ids: list[int], stop: tuple[str, ...]) -> tuple[str, bool]:
    """The generation ends with the first token that completes a stop string."""
    text = ""
    for count in range(1, len(token_ids) + 1):
        text = TOKENIZER.decode(token_ids[:count]).rstrip("\ufffd")
        starts = [text.find(one) for one in stop if one in text]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(text=st.text("aé€😀", max_size=30), prompt=st.text("aé€😀", min_size=1, max_size=5))
def test_characters_of_single_bytes_come_out_whole(text, prompt):
    tokenizer = create_byte_fallback_tokenizer()
    detokenizer = IncrementalDetokenizer(tokenizer, tokenizer.encode(prompt).ids)
    token_ids = tokenizer.encode("a" + text).ids[2:]  # without the space and the letter
    deltas = [detokenizer.push(token_id) for token_id in token_ids]
    assert "".join(deltas) + detokenizer.finish() == text


def test_a_character_of_many_tokens_comes_out_at_once():
    token_ids = encode("😀")
    assert len(token_ids) == 4
    assert detokenize(token_ids)[0] == ["", "", "", "😀", ""]


def test_a_character_that_was_cut_is_left_out():
    assert "".join(detokenize(encode("a😀")[:-1])[0]) == "a"


def test_text_that_cannot_become_a_stop_string_is_not_held_back():
    deltas, _ = detokenize(encode("the cat"), stop=("xyz",))
    assert deltas[0] == "t"  # all but the last two characters of "the"


def test_special_tokens_have_no_text():
    end = TOKENIZER.token_to_id(END)
    assert "".join(detokenize([*encode("cat"), end, *encode(" sat")])[0]) == "cat sat"


@pytest.mark.parametrize("stop", [(), ("x",)])
def test_nothing_in_nothing_out(stop):
    assert detokenize([], stop)[0] == [""]
