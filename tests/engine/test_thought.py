"""Thoughts in the engine: states, forced tokens, and the tokens that a grammar does not get."""

import pytest

from src.engine.thought import Thought, ThoughtParams, ThoughtTracker

END_IDS = (300, 301)
WORDS = {300: b"\n", 301: b"</think>", 302: b"<think>", 303: b"a", 304: b"</th", 305: b"ink> "}


def create_tracker(*, has_grammar: bool = False, **params: object) -> ThoughtTracker:
    defaults = {"begin": "<think>", "end": "</think>", "begin_ids": (302,), "end_ids": END_IDS}
    thought = ThoughtParams(**(defaults | params))
    return Thought(thought, WORDS.__getitem__, has_grammar).start()


def test_a_thought_ends_with_its_tag_in_any_tokens():
    for end in ((301,), (304, 305)):
        tracker = create_tracker(is_open=True)
        for token_id in (303, 304, 303, *end):
            assert tracker.is_open
            tracker.add(token_id)
        assert not tracker.is_open
        tracker.add(303)
        assert not tracker.is_open


def test_a_spent_budget_forces_the_end():
    tracker = create_tracker(is_open=True, budget=2)
    taken = []
    for _ in range(4):
        taken.append(tracker.forced_token_id)
        tracker.add(303 if taken[-1] is None else taken[-1])
    assert taken == [None, None, *END_IDS]
    assert (tracker.is_open, tracker.forced_token_id, tracker.num_free) == (False, None, None)


def test_drafts_end_with_the_budget():
    tracker = create_tracker(is_open=True, budget=2)
    numbers = []
    for token_id in (303, 303, *END_IDS):
        numbers.append(tracker.num_free)
        tracker.add(token_id)
    assert numbers == [2, 1, 0, 0]
    assert create_tracker(is_open=True).num_free is None


def test_no_budget_ends_an_open_thought_at_once():
    assert create_tracker(is_open=True, budget=0).forced == [*END_IDS]
    tracker = create_tracker(budget=0)
    assert tracker.forced == []
    tracker.add(302)
    assert tracker.forced == [*END_IDS]


def test_text_without_the_tag_is_no_thought():
    tracker = create_tracker(budget=1)
    for token_id in (300, 303, 302, 303, 303):
        tracker.add(token_id)
        assert not tracker.is_open
        assert tracker.forced_token_id is None


def test_a_model_may_open_a_thought_before_a_grammar():
    tracker = create_tracker(has_grammar=True)
    assert (tracker.offered_token_id, tracker.is_open) == (302, False)
    assert tracker.takes(302)
    assert not tracker.takes(303)
    tracker.add(302)
    assert tracker.offered_token_id is None
    assert tracker.is_open
    assert tracker.takes(303)


def test_the_first_token_of_a_grammar_ends_the_offer():
    tracker = create_tracker(has_grammar=True)
    tracker.add(303)
    assert tracker.offered_token_id is None
    assert not tracker.takes(302)


@pytest.mark.parametrize("params", [{"budget": 0}, {"begin_ids": (304, 305)}])
def test_a_grammar_begins_at_once_if_no_token_tells_a_thought(params):
    tracker = create_tracker(has_grammar=True, **params)
    assert tracker.offered_token_id is None
    assert not tracker.takes(302)


def test_a_thought_that_must_begin_is_forced():
    tracker = create_tracker(has_grammar=True, must_begin=True)
    assert (tracker.forced_token_id, tracker.is_open) == (302, True)
    tracker.add(302)
    assert (tracker.forced_token_id, tracker.is_open) == (None, True)
