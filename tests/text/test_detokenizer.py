"""Detokenizer and stop texts: deltas add up, without partial characters or parts of stop texts."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from src.text.detokenizer import MAX_UNFINISHED_TOKENS, REPLACEMENT, IncrementalDetokenizer
from src.text.stop_texts import StopTexts
from tests.support.tiny_models import (
    END,
    VOCAB_SIZE,
    create_byte_fallback_tokenizer,
    create_tokenizer,
)

TOKENIZER = create_tokenizer().backend_tokenizer
BYTE_FALLBACK = create_byte_fallback_tokenizer()
SPECIAL = frozenset({0, 1})


def encode(text: str) -> list[int]:
    return TOKENIZER.encode_batch([text])[0].ids


def detokenize(
    token_ids: list[int],
    stop: tuple[str, ...] = (),
    prompt_token_ids: list[int] | None = None,
    skipped: frozenset[int] = frozenset(),
    tokenizer: Tokenizer = TOKENIZER,
) -> tuple[list[str], StopTexts]:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt_token_ids or [], frozenset(), skipped)
    stop_texts = StopTexts(stop)
    deltas = [stop_texts.push(detokenizer.push(token_id)) for token_id in token_ids]
    last = stop_texts.push(detokenizer.finish())
    return [*deltas, last + stop_texts.finish()], stop_texts


def text_of(*arguments: object, **options: object) -> str:
    """The whole text without replacement characters at its end.

    These cannot be distinguished from a character that was cut.
    """
    return "".join(detokenize(*arguments, **options)[0]).rstrip(REPLACEMENT)


@given(text=st.text(st.characters(codec="utf-8"), max_size=60), prompt=st.text(max_size=10))
def test_deltas_add_up_to_the_text(text, prompt):
    prompt_token_ids = encode(prompt.encode("utf-8", "replace").decode())
    assert text_of(encode(text), (), prompt_token_ids) == text.rstrip(REPLACEMENT)


@given(token_ids=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=60))
@pytest.mark.parametrize("skipped", [frozenset(), SPECIAL])
def test_any_tokens_decode_as_by_huggingface(token_ids, skipped):
    whole = TOKENIZER.decode(token_ids, skip_special_tokens=True)
    assert text_of(token_ids, skipped=skipped) == whole.rstrip(REPLACEMENT)


@given(data=st.data(), text=st.text("abcé😀 ", min_size=1, max_size=40))
def test_a_stop_text_and_the_text_after_it_are_not_released(data, text):
    stops = st.text("abcé😀 ", min_size=1, max_size=4)
    stop = tuple(data.draw(st.lists(stops, min_size=1, max_size=3)))
    token_ids = encode(text)
    deltas, stop_texts = detokenize(token_ids, stop)
    expected, stopped = text_until_stop(token_ids, stop)
    assert "".join(deltas) == expected
    assert stop_texts.stopped == stopped


def text_until_stop(token_ids: list[int], stop: tuple[str, ...]) -> tuple[str, bool]:
    """Oracle: the generation ends with the first token that completes a stop text."""
    text = ""
    for count in range(1, len(token_ids) + 1):
        text = TOKENIZER.decode(token_ids[:count]).rstrip(REPLACEMENT)
        starts = [text.find(stop_text) for stop_text in stop if stop_text in text]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(text=st.text("aé€😀", max_size=30), prompt=st.text("aé€😀", min_size=1, max_size=5))
def test_byte_fallback_tokens_make_whole_characters(text, prompt):
    token_ids = BYTE_FALLBACK.encode("a" + text).ids[2:]  # without the space and the letter
    prompt_token_ids = BYTE_FALLBACK.encode(prompt).ids
    deltas, _ = detokenize(token_ids, (), prompt_token_ids, tokenizer=BYTE_FALLBACK)
    assert "".join(deltas) == text


@given(
    token_ids=st.lists(st.integers(0, BYTE_FALLBACK.get_vocab_size() - 1), max_size=60),
    text=st.text("abc ", min_size=8, max_size=20),
)
def test_text_after_malformed_byte_fallback_tokens_is_whole(token_ids, text):
    token_ids = [*token_ids, *BYTE_FALLBACK.encode("a" + text).ids[1:]]
    deltas, _ = detokenize(token_ids, tokenizer=BYTE_FALLBACK)
    assert "".join(deltas).endswith(text)


def test_a_decode_stream_raises_on_malformed_byte_fallback_tokens():
    """The reason against DecodeStream; if this fails, it may have become an alternative."""
    letter = BYTE_FALLBACK.token_to_id("<0x41>")
    partial = BYTE_FALLBACK.token_to_id("<0xC3>")
    text = BYTE_FALLBACK.encode("b").ids[-1]
    stream = DecodeStream(skip_special_tokens=True)
    assert stream.step(BYTE_FALLBACK, letter) == "A"
    assert stream.step(BYTE_FALLBACK, partial) is None
    with pytest.raises(Exception, match="Invalid prefix"):
        stream.step(BYTE_FALLBACK, text)


def test_a_character_of_many_tokens_is_released_at_once():
    token_ids = encode("😀")
    assert len(token_ids) == 4
    assert detokenize(token_ids)[0] == ["", "", "", "😀", ""]


def test_a_character_that_was_cut_is_left_out():
    assert "".join(detokenize(encode("a😀")[:-1])[0]) == "a"


def test_malformed_bytes_are_released_once_they_are_many():
    (first, _) = encode("é")
    count = 3 * MAX_UNFINISHED_TOKENS
    deltas, _ = detokenize([*encode("a"), *[first] * count, *encode("b")])
    assert "".join(deltas) == "a" + REPLACEMENT * count + "b"
    assert deltas[1 + MAX_UNFINISHED_TOKENS] == REPLACEMENT * (MAX_UNFINISHED_TOKENS + 1)


@pytest.mark.parametrize("token_id", [0, encode("é")[0]])
def test_time_a_token_does_not_grow_with_tokens_without_text(token_id):
    def seconds(count: int) -> float:
        started = time.perf_counter()
        detokenize([token_id] * count, skipped=SPECIAL)
        return time.perf_counter() - started

    short, long = (min(seconds(count) for _ in range(5)) for count in (2_000, 20_000))
    assert long < 40 * short  # 10 in linear time, 100 in quadratic time


def test_text_that_cannot_become_a_stop_text_is_not_held_back():
    deltas, _ = detokenize(encode("the cat"), stop=("xyz",))
    assert deltas[0] == "t"  # all but the last two characters of "the"


@pytest.mark.parametrize("skipped", [frozenset(), SPECIAL])
def test_special_tokens_have_no_text(skipped):
    end = TOKENIZER.token_to_id(END)
    token_ids = [*encode("cat"), end, *encode(" sat")]
    assert text_of(token_ids, skipped=skipped) == "cat sat"


@pytest.mark.parametrize("stop", [(), ("x",)])
def test_no_tokens_have_no_text(stop):
    assert detokenize([], stop)[0] == [""]
