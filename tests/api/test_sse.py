"""Events as they go over the wire: whatever is said in them, a reader gets that and no more."""

import json

from anthropic._streaming import SSEDecoder as AnthropicDecoder
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder as OpenAIDecoder

from src.api.sse import DONE, _format, _Writer
from src.models import GenerateDelta
from tests.support.servers import parse_events

ODD = [
    "\n",
    "\r",
    "\n\n",
    *"\x0b\x0c\x1c\x85\u2028\u2029\0\ufeff",
    "data: ",
    "id:",
    ":",
    "[DONE]",
    "デ",
]
CHARACTERS = st.characters(codec="utf-8")
TEXTS = st.lists(st.sampled_from(ODD) | CHARACTERS, max_size=12).map("".join)


@settings(deadline=None)
@given(texts=st.lists(TEXTS, max_size=5), data=st.data())
def test_any_text_survives_the_event_stream(texts, data):
    writer = _Writer(None, named=False, render_failure=None)  # type: ignore[arg-type]
    deltas = [GenerateDelta(index=0, text=text, finish_reason=None) for text in texts]
    sent = b"".join(map(writer.event, deltas)) + DONE
    for decoder in (OpenAIDecoder(), AnthropicDecoder()):
        events = list(decoder.iter_bytes(iter(data.draw(pieces(sent)))))
        assert [event.data for event in events[-1:]] == ["[DONE]"]
        assert [json.loads(event.data)["text"] for event in events[:-1]] == texts
    assert [json.loads(said)["text"] for _, said in parse_events(sent.decode())[:-1]] == texts


def pieces(sent: bytes) -> st.SearchStrategy[list[bytes]]:
    """The bytes in any pieces that a network makes of them."""
    cuts = st.lists(st.integers(0, len(sent)), max_size=5).map(sorted)
    return cuts.map(
        lambda at: [sent[one:other] for one, other in zip([0, *at], [*at, len(sent)], strict=True)]
    )


@settings(deadline=None)
@given(text=TEXTS, name=st.sampled_from(["error", "message_start", None]))
def test_no_reader_sees_more_lines_than_there_are(text, name):
    """Some take more characters for the end of a line than the standard does."""
    lines = _format(name, json.dumps({"text": text}, ensure_ascii=False)).decode().splitlines()
    fields = [line.partition(":")[0] for line in lines]
    assert fields == (["event", "data", ""] if name else ["data", ""])
