"""`/v1/decisions` through OpenAI's client: probabilities of typed answers."""

import openai
import pytest
import torch
from openai.types import Decision
from transformers import AutoModelForCausalLM

from src.api.openai.decisions.routes import INSTRUCTIONS
from tests.api.openai.test_errors import error_of
from tests.support.wire import assert_shape, openai_client, post

MODEL = "storyteller"
INPUT = "I was charged twice for my order, please help me."
PREDICATE = {"type": "predicate", "instructions": "The customer complains."}
CHOICE = {
    "type": "choice",
    "name": "topic",
    "instructions": "What is it about?",
    "choices": [{"value": "billing"}, {"value": "weather", "description": "rain"}, {"value": True}],
}
SCORE = {
    "type": "score",
    "name": "urgency",
    "instructions": [{"type": "input_text", "text": "How urgent is it?"}],
    "levels": [{"label": "low"}, {"label": "middle"}, {"label": "high", "description": "now"}],
}
QUESTIONS = [PREDICATE, CHOICE, SCORE]
BODY = {"model": MODEL, "input": INPUT, "questions": QUESTIONS}
CALL = {"type": "function_call", "call_id": "1", "name": "find_order", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "charged twice"}
PART = "input.[0].content.[0]"
ASKED = [
    ('Is this statement true: "The customer complains." Answer yes or no.', ["yes", "no"]),
    (
        "What is it about?\nA. billing\nB. weather: rain\nC. true\nAnswer with the letter alone.",
        ["A", "B", "C"],
    ),
    (
        "How urgent is it?\nA. low\nB. middle\nC. high: now\nAnswer with the letter alone.",
        ["A", "B", "C"],
    ),
]


@pytest.fixture(scope="module")
def ai(server) -> openai.OpenAI:
    with openai_client(server) as client:
        yield client


def test_probabilities_are_those_of_huggingface(ai, server):
    decision = ai.decisions.create(**BODY)
    oracle = AutoModelForCausalLM.from_pretrained("src/bundled/storyteller", dtype=torch.float32)
    expected = []
    for asked, words in ASKED:
        text = f"Input:\n{INPUT}\n\nQuestion:\n{asked}"
        messages = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": text},
        ]
        ids = post(server, "/tokenize", messages=messages).json()["tokens"]
        labels = [
            post(server, "/tokenize", prompt=word, add_special_tokens=False).json()["tokens"][0]
            for word in words
        ]
        with torch.inference_mode():
            logits = oracle(torch.tensor([ids])).logits[0, -1]
        expected.append(logits[labels].softmax(0).tolist())
    predicate, choice, score = decision.answers
    assert predicate.probability == pytest.approx(expected[0][0], abs=1e-4)
    assert [one.probability for one in choice.probabilities] == pytest.approx(expected[1], abs=1e-4)
    assert [one.value for one in choice.probabilities] == ["billing", "weather", True]
    assert choice.confidence == max(one.probability for one in choice.probabilities)
    assert [one.probability for one in score.probabilities] == pytest.approx(expected[2], abs=1e-4)
    assert score.score == pytest.approx(expected[2][1] + 2 * expected[2][2], abs=1e-4)
    assert [(one.label, one.value) for one in score.probabilities] == [
        ("low", 0),
        ("middle", 1),
        ("high", 2),
    ]
    assert [answer.name for answer in decision.answers] == [None, "topic", "urgency"]


def test_the_answer_has_the_clients_shape_and_counts_its_tokens(server):
    answer = post(server, "/v1/decisions", **BODY).json()
    assert_shape(Decision, answer)
    usage = answer["usage"]
    assert usage["output_tokens"] == 3
    assert usage["total_tokens"] == usage["input_tokens"] + 3
    assert usage["input_tokens_details"]["cached_tokens"] > 0


def test_messages_calls_and_outputs_are_an_input_too(ai):
    items = [
        {"role": "user", "content": INPUT},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        CALL,
        OUTPUT,
        {"type": "custom_tool_call", "call_id": "2", "name": "note", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "2", "output": "done"},
        {"role": "user", "content": [{"type": "input_json", "data": {"order": 7}}]},
    ]
    decision = ai.decisions.create(model=MODEL, input=items, questions=[PREDICATE])
    assert 0 < decision.answers[0].probability < 1


def test_questions_are_answered_as_each_alone(ai):
    together = ai.decisions.create(**BODY).answers
    for question, answer in zip(QUESTIONS, together, strict=True):
        (alone,) = ai.decisions.create(**BODY | {"questions": [question]}).answers
        assert alone.model_dump(exclude={"probabilities"}) == pytest.approx(
            answer.model_dump(exclude={"probabilities"}), abs=1e-4
        )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"questions": []}, "questions"),
        ({"questions": [PREDICATE] * 401}, "questions"),
        ({"questions": [PREDICATE | {"type": "rank"}]}, "questions.[0].type"),
        ({"questions": [PREDICATE | {"choices": CHOICE["choices"]}]}, "questions.[0].choices"),
        (
            {"questions": [PREDICATE, {"type": "score", "instructions": "a"}]},
            "questions.[1].levels",
        ),
        ({"questions": [CHOICE | {"choices": [{"value": "a"}] * 2}]}, "questions.[0].choices"),
        ({"questions": [CHOICE | {"choices": [{"value": "a"}]}]}, "questions.[0].choices"),
        (
            {"questions": [CHOICE | {"choices": [{"value": str(n)} for n in range(21)]}]},
            "questions.[0].choices",
        ),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.[0].content"),
        ({"input": "word " * 1500}, "input"),
        ({"input": [{"role": "user"}]}, "input.[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, PART),
        ({"input": [{"role": "user", "content": [{"type": "input_json", "data": 7}]}]}, PART),
        ({"input": [{"type": "function_call", "call_id": "1"}]}, "input.[0]"),
        ({"input": [CALL, OUTPUT | {"call_id": "2"}]}, "input.[1].call_id"),
        ({"input": [CALL, OUTPUT | {"type": "custom_tool_call_output"}]}, "input.[1].call_id"),
        ({"input": [OUTPUT, CALL]}, "input.[0].call_id"),
    ],
)
def test_an_invalid_field_is_named(client, fields, param):
    assert error_of(client.post("/v1/decisions", json=BODY | fields), 400)["param"] == param
