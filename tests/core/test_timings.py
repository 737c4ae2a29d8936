"""Times and counts of a call's sequences, from the engine's outputs."""

from itertools import count
from types import SimpleNamespace

import pytest

from src.core import timings
from src.core.timings import CallTimings
from src.engine.request import Admission, Request, RequestOutput
from src.engine.sampling_params import SamplingParams


@pytest.fixture
def clock(monkeypatch) -> None:
    """Each look at the clock takes a second, from second 10 on."""
    seconds = count(10)
    monkeypatch.setattr(timings, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


def create_request(num_tokens: int = 4, arrived_at: float = 5.0) -> Request:
    return Request("a", [1] * num_tokens, SamplingParams(), arrived_at)


def output(*token_ids: int, queue: float | None = None, cached=0, drafted=0) -> RequestOutput:
    admission = None if queue is None else Admission(queue, cached)
    return RequestOutput("a", list(token_ids), admission=admission, num_drafted=drafted)


def test_the_times_follow_one_another(clock):
    call, request = CallTimings(), create_request()
    call.add(request, output(7, queue=2.0, cached=3), 1, is_first=True)
    call.add(request, output(8, 9, drafted=2), 2, is_first=True)
    assert (call.queue_seconds, call.prefill_seconds, call.decode_seconds) == (2.0, 3.0, 1.0)
    assert (call.num_prompt_tokens, call.num_cached_tokens, call.num_computed_tokens) == (4, 3, 1)
    assert (call.num_new_tokens, call.num_drafted, call.num_accepted) == (3, 2, 1)
    assert call.prefill_tokens_per_second == pytest.approx(1 / 3)
    assert call.decode_tokens_per_second == 2.0


def test_sequences_of_a_prompt_share_its_tokens_and_the_earliest_times(clock):
    call = CallTimings()
    call.add(create_request(arrived_at=5.0), output(7, queue=4.0), 1, is_first=True)
    call.add(create_request(arrived_at=5.0), output(7, queue=1.0, cached=4), 1, is_first=False)
    assert (call.queue_seconds, call.prefill_seconds, call.decode_seconds) == (1.0, 4.0, 1.0)
    assert (call.num_prompts, call.num_prompt_tokens, call.num_cached_tokens) == (1, 4, 0)
    assert call.decode_tokens_per_second == 1.0


def test_several_prompts_have_no_speed_of_prefill(clock):
    call = CallTimings()
    for _ in range(2):
        call.add(create_request(), output(7, queue=1.0), 1, is_first=True)
    assert (call.num_prompts, call.num_prompt_tokens) == (2, 8)
    assert call.prefill_tokens_per_second is None


def test_tokens_that_a_stop_text_drops_are_drafts_but_no_new_tokens(clock):
    call, request = CallTimings(), create_request()
    call.add(request, output(7, queue=1.0), 1, is_first=True)
    call.add(request, output(8, 9, 10, drafted=2), 1, is_first=True)
    assert (call.num_new_tokens, call.num_accepted, call.num_drafted) == (2, 2, 2)


def test_a_call_without_outputs_has_no_times():
    call = CallTimings()
    assert (call.queue_seconds, call.prefill_seconds, call.decode_seconds) == (0, 0, 0)
    assert call.prefill_tokens_per_second is call.decode_tokens_per_second is None


def test_a_single_token_has_no_speed(clock):
    call = CallTimings()
    call.add(create_request(), output(7, queue=1.0), 1, is_first=True)
    assert call.decode_tokens_per_second is None
