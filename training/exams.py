"""Exams of the model: prompts held out from training, with checks of the answers.

Contract: seeded, so every run asks the same questions; nothing here was in a training document.
"""

import json
from collections.abc import Callable
from functools import partial
from random import Random

from training import phrasings
from training.dialogue import Turn, create_topic
from training.documents import ROLE_TOKENS, render, training_facts
from training.grammar import Bindings
from training.questions import Exam, Question
from training.replies import JsonTask, ask_json, create_given_task, create_task
from training.stories import check_story
from training.sums import HELD_OUT_QUESTIONS, QUESTIONS, answer_sum, held_out_pairs
from training.tool_exams import create_tool_exams

STORY_STARTS = (
    *("Once upon a time", "Once upon a time,", "One day,"),
    *("Long ago,", "This is the story of"),
)


def create_exams() -> list[Exam]:
    """Creates all exams, in the order of the table."""
    return [
        Exam(
            "Sampled stories whose every sentence the grammar accepts, name and trait kept",
            [*plain_stories(100), *requested_stories(100)],
            goal="≥ 95 %",
            sample=True,
            max_new_tokens=260,
        ),
        Exam(
            "Sampled stories that are also about the requested topic",
            topical_stories(100),
            sample=True,
            max_new_tokens=260,
        ),
        Exam("Listed facts in unseen phrasings", fact_questions(), goal="≥ 95 %"),
        Exam("Unseen additions up to 20 + 20", sum_questions(), goal="≥ 90 %"),
        Exam("JSON replies that parse and have the asked keys", json_questions(200)),
        Exam("JSON replies with the right values too", json_value_questions(200)),
        Exam("Small talk and unknown questions in unseen phrasings", talk_questions()),
        *create_tool_exams(),
    ]


def plain_stories(count: int) -> list[Question]:
    """Stories continued from an opening."""
    random = Random("exam/plain stories")
    starts = random.choices(STORY_STARTS, k=count)
    return [Question(start, partial(_is_story_after, start)) for start in starts]


def requested_stories(count: int) -> list[Question]:
    """Stories requested in held-out phrasings."""
    random = Random("exam/requested stories")
    topics = [create_topic(random).text for _ in range(count)]
    return [_chat(random, _story_request(random, topic), _is_story) for topic in topics]


def topical_stories(count: int) -> list[Question]:
    """Stories with a requested hero or wanted thing."""
    random = Random("exam/topical stories")
    topics = [create_topic(random) for _ in range(count)]
    return [
        _chat(random, _story_request(random, topic.text), partial(_is_story_about, topic.preset))
        for topic in topics
    ]


def fact_questions() -> list[Question]:
    """Every listed fact in the two phrasings that its family holds out."""
    random = Random("exam/facts")
    return [
        _chat(random, question, partial(str.__eq__, fact.statement))
        for fact in training_facts()
        for question in fact.held_out_questions
    ]


def sum_questions() -> list[Question]:
    """Held-out pairs in both orders, in held-out phrasings and in some known ones."""
    random = Random("exam/sums")
    ordered = sorted({pair for a, b in held_out_pairs() for pair in ((a, b), (b, a))})
    return [
        _chat(random, phrasing.format(a=a, b=b), partial(str.__eq__, answer_sum(a, b)))
        for a, b in ordered
        for phrasing in (*HELD_OUT_QUESTIONS, *random.sample(QUESTIONS, 3))
    ]


def json_questions(count: int) -> list[Question]:
    """JSON of every kind; values may be the model's own where the request leaves them open."""
    random = Random("exam/json")
    tasks = [create_task(random, training_facts()) for _ in range(count)]
    return [_json_question(random, task, partial(_has_keys, list(task.answer))) for task in tasks]


def json_value_questions(count: int) -> list[Question]:
    """JSON with values that follow from the request or from listed facts."""
    random = Random("exam/json values")
    tasks = [create_given_task(random, training_facts()) for _ in range(count)]
    return [_json_question(random, task, partial(_is_object, task.answer)) for task in tasks]


def talk_questions() -> list[Question]:
    """Small talk, and questions that the model can only answer honestly by admitting ignorance."""
    random = Random("exam/talk")
    unknown = [
        question.format(x=subject)
        for question in phrasings.HELD_OUT_UNKNOWN_QUESTIONS
        for subject in phrasings.UNKNOWN_SUBJECTS
    ]
    replies_to = {
        phrasings.HELD_OUT_GREETINGS: phrasings.GREETING_REPLIES,
        phrasings.HELD_OUT_THANKS: phrasings.THANKS_REPLIES,
        phrasings.HELD_OUT_GOODBYES: phrasings.GOODBYE_REPLIES,
        phrasings.HELD_OUT_IDENTITY_QUESTIONS: phrasings.IDENTITY_REPLIES,
        tuple(unknown): phrasings.UNKNOWN_REPLIES,
    }
    return [
        _chat(random, question, replies.__contains__)
        for questions, replies in replies_to.items()
        for question in questions
    ]


def _chat(random: Random, question: str, is_right: Callable[[str], bool]) -> Question:
    """Creates a user turn, after a held-out system turn in a third of the cases."""
    turns = [Turn("user", question)]
    if random.random() < 1 / 3:
        turns.insert(0, Turn("system", random.choice(phrasings.HELD_OUT_SYSTEMS)))
    return Question(render(turns) + ROLE_TOKENS["assistant"], is_right)


def _json_question(random: Random, task: JsonTask, is_right: Callable[[str], bool]) -> Question:
    return _chat(random, ask_json(random, task, phrasings.HELD_OUT_JSON_REQUESTS), is_right)


def _story_request(random: Random, topic: str) -> str:
    return random.choice(phrasings.HELD_OUT_STORY_REQUESTS).format(topic=topic)


def _is_story(text: str) -> bool:
    return check_story(text).accepted


def _is_story_after(start: str, text: str) -> bool:
    return _is_story(start + text)


def _is_story_about(preset: Bindings, text: str) -> bool:
    check = check_story(text)
    return check.accepted and preset.items() <= check.bindings.items()


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _has_keys(keys: list[str], text: str) -> bool:
    answer = _parse(text)
    return isinstance(answer, dict) and list(answer) == keys


def _is_object(wanted: dict[str, object], text: str) -> bool:
    return _parse(text) == wanted
