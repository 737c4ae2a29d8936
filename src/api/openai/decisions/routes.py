"""The route of `/v1/decisions`."""

from string import ascii_uppercase

from fastapi import APIRouter, Request

from src.api.deps import EngineDep, while_connected
from src.api.fields.priority import use_priority
from src.api.labels import LabelPrompt, LabelReader, LabelUsage
from src.api.openai.decisions.schemas import (
    ChoiceAnswer,
    ChoiceProbability,
    DecisionAnswers,
    DecisionInputTokens,
    DecisionOutputTokens,
    DecisionQuestion,
    DecisionRequest,
    DecisionUsage,
    LevelProbability,
    PredicateAnswer,
    ScoreDecision,
    joined,
)
from src.api.openai.family import OPENAI
from src.api.openapi import error_responses
from src.api.served_model import check_model
from src.inference import InferenceEngine
from src.limits.rate_limit import RateLimitedRoute

router = APIRouter(
    prefix="/v1",
    tags=["OpenAI"],
    route_class=RateLimitedRoute,
    responses=error_responses(OPENAI, 400, 404, 413, 415, 429, 500, 503, 504),
)

INSTRUCTIONS = "Read the input and answer the question about it. Reply with one word or letter."
ANSWERS = ("yes", "no")

Answer = PredicateAnswer | ChoiceAnswer | ScoreDecision


@router.post("/decisions", response_model=DecisionAnswers)
async def create_decision(
    request: Request, body: DecisionRequest, engine: EngineDep
) -> DecisionAnswers:
    """Answer typed questions about an input, with probabilities."""
    use_priority(body)
    check_model(body.model, engine)
    body.check()
    return await while_connected(request, _decide(body, engine))


async def _decide(body: DecisionRequest, engine: InferenceEngine) -> DecisionAnswers:
    reader = LabelReader(engine, engine.create_context(("input",)))
    is_text = len(body.input) == 1 and body.input[0].role == "user"
    source = joined(body.input[0].content) if is_text else ""
    source = source or "\n".join(item.as_text() for item in body.input)
    prompts = [await _prompt(reader, source, question) for question in body.questions]
    probabilities = await reader.probabilities(prompts)
    answers = [
        _answer(question, found)
        for question, found in zip(body.questions, probabilities, strict=True)
    ]
    usage = _usage(reader.usage, len(prompts))
    return DecisionAnswers(model=engine.model_name, answers=answers, usage=usage)


async def _prompt(reader: LabelReader, source: str, question: DecisionQuestion) -> LabelPrompt:
    """Returns a question's prompt; the input comes first, so that all questions share it."""
    texts, options = list(ANSWERS), question.options()
    asked = joined(question.instructions)
    if options:
        texts = list(ascii_uppercase[: len(options)])
        lines = [f"{letter}. {line}" for letter, line in zip(texts, options, strict=True)]
        asked = "\n".join([asked, *lines, "Answer with the letter alone."])
    else:
        asked = f'Is this statement true: "{asked}" Answer yes or no.'
    text = f"Input:\n{source}\n\nQuestion:\n{asked}"
    labels = await reader.find_labels(texts, ("model",))
    return LabelPrompt(await reader.encode(INSTRUCTIONS, text, ("input",)), labels)


def _answer(question: DecisionQuestion, probabilities: list[float]) -> Answer:
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    if question.choices is not None:
        values = [one.value for one in question.choices]
        return ChoiceAnswer(
            name=question.name,
            choice=values[best],
            confidence=probabilities[best],
            probabilities=[
                ChoiceProbability(value=value, probability=probability)
                for value, probability in zip(values, probabilities, strict=True)
            ],
        )
    if question.levels is not None:
        return ScoreDecision(
            name=question.name,
            score=sum(level * probability for level, probability in enumerate(probabilities)),
            confidence=probabilities[best],
            probabilities=[
                LevelProbability(label=one.label, value=value, probability=probabilities[value])
                for value, one in enumerate(question.levels)
            ],
        )
    return PredicateAnswer(name=question.name, probability=probabilities[0])


def _usage(used: LabelUsage, num_sampled: int) -> DecisionUsage:
    return DecisionUsage(
        input_tokens=used.num_prompt_tokens,
        input_tokens_details=DecisionInputTokens(cached_tokens=used.num_cached_tokens),
        output_tokens=num_sampled,
        output_tokens_details=DecisionOutputTokens(),
        total_tokens=used.num_prompt_tokens + num_sampled,
    )
