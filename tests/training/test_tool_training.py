"""Tools in training: lists, calls and answers, and the bundled model's behaviour."""

import json
import re
from itertools import pairwise
from random import Random

import pytest
import torch
from transformers import GPT2LMHeadModel
from transformers import PreTrainedTokenizerFast as Tokenizer

from tests.support.bundled import bundled, documents
from training.abilities import create_task
from training.corpus import create_batch
from training.dialogue import Turn
from training.documents import render, training_facts
from training.guidance import create_bare_tokens, find_sources, log_attention
from training.held_out_skills import HELD_OUT_SKILLS
from training.listing import phrases_of
from training.settings import TrainSettings
from training.skills import NUM_HELD_OUT, Skill, create_skill
from training.tool_talk import (
    SKILLS,
    create_abilities,
    create_unserved_task,
    write_called,
    write_tool_conversation,
)
from training.tools import list_tools, to_openai


def test_held_out_tools_and_their_requests_occur_in_no_document() -> None:
    text = "\n".join(documents())
    called = set(re.findall(r'"name": "(\w+)", "arguments"', text))
    described = set(re.findall(r'"name": "(\w+)", "description"', text))
    assert called == described
    assert {skill.name for skill in HELD_OUT_SKILLS} & described == set()
    frames = [q for skill in SKILLS for q in phrases_of(skill.requests)[-NUM_HELD_OUT:]]
    for frame in (*frames, *(q for skill in HELD_OUT_SKILLS for q in phrases_of(skill.requests))):
        pattern = re.escape(re.sub(r"{\w+}", "#", frame)).replace(r"\#", "[^<]+")
        assert re.search(pattern, text) is None, frame


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.subject)
def test_arguments_of_evaluation_are_never_those_of_training(skill: Skill) -> None:
    random = Random("arguments")
    ability = create_skill(random, skill)
    seen, held_out = (
        {
            str(task.arguments)
            for task in (
                create_task(random, ability, ability.held_out_requests, is_held_out)
                for _ in range(300)
            )
        }
        for is_held_out in (False, True)
    )
    assert seen
    assert held_out
    assert not seen & held_out


def test_calls_fit_their_tool_and_copy_from_the_request() -> None:
    random = Random("calls")
    num_calls = 0
    for _ in range(300):
        system, *turns = write_tool_conversation(random, training_facts())
        lines = system.content.split("<tools>\n")[1].removesuffix("\n</tools>").splitlines()
        parameters = {tool["name"]: tool["parameters"] for tool in map(json.loads, lines)}
        assert 1 <= len(parameters) <= 3
        for request, turn in pairwise(turns):
            if not turn.content.startswith("<tool_call>"):
                continue
            made = json.loads(turn.content.split("\n")[1])
            allowed = parameters[made["name"]]
            assert made["arguments"].keys() <= allowed.keys()
            for name, value in made["arguments"].items():
                assert is_allowed(value, allowed[name])
                assert str(value).lower() in request.content.lower()
            num_calls += 1
    assert num_calls > 200


def is_allowed(value: object, described: str | list[str]) -> bool:
    """Checks `value` against the listed type or the listed values."""
    if isinstance(described, list):
        return value in described
    types = {"string": str, "integer": int, "number": int}
    return isinstance(value, types[described])


def test_answers_state_what_the_tool_returned() -> None:
    random = Random("answers")
    for _ in range(300):
        ability = create_abilities(random, 1)[0]
        task = create_task(random, ability, ability.requests)
        assert task.shown
        assert all(value in task.answer and value in task.result for value in task.shown)


def test_a_task_that_is_not_served_shares_no_topic_with_the_tools() -> None:
    random = Random("not served")
    for _ in range(200):
        abilities = create_abilities(random, 3)
        other = create_unserved_task(random, abilities).ability
        assert not any(other.topics & ability.topics for ability in abilities)
        assert other.tool.name not in {ability.tool.name for ability in abilities}


def test_the_loss_counts_the_models_turns_alone_in_conversations_with_tools() -> None:
    _, tokenizer = bundled()
    batch = create_batch(tokenizer, "1/3", 16, 384, "tools")
    for row, counts in zip(batch.tokens, batch.counts, strict=True):
        for text, counted in split_documents(tokenizer, row[1:], counts):
            spoken = re.findall(r"<\|assistant\|>(.*?(?:<\|end\|>|$))", text, re.DOTALL)
            assert counted in (text, "".join(spoken))
            assert counted != text or "<tools>" not in text


def split_documents(
    tokenizer: Tokenizer, tokens: torch.Tensor, counts: torch.Tensor
) -> list[tuple[str, str]]:
    """Returns each document of a row, and the part of it that the loss counts."""
    ends = [-1, *(tokens == tokenizer.eos_token_id).nonzero().flatten().tolist(), len(tokens)]
    spans = [slice(end + 1, following) for end, following in pairwise(ends)]
    return [
        (tokenizer.decode(tokens[span]), tokenizer.decode(tokens[span][counts[span]]))
        for span in spans
    ]


def test_copy_sources_precede_the_same_token_in_the_same_context() -> None:
    end = 0
    tokens = torch.tensor([[5, 6, 7, 4, 6, 9, 2, 5, 6, 9, end, 5, 6]])
    pairs = find_sources(tokens, end).nonzero().tolist()
    # The 5 after the 2 stands at the start, before another 6. The 6 after it stands after a 5 and
    # before a 9, which agree with it as well. No other document counts.
    assert pairs == [[0, 6, 0], [0, 7, 1], [0, 7, 4], [0, 8, 5]]


def test_a_token_counts_as_the_same_without_its_leading_space() -> None:
    _, tokenizer = bundled()
    bare = create_bare_tokens(tokenizer)
    spaced, plain = tokenizer.convert_tokens_to_ids(["ĠS", "S"])
    assert bare[spaced] == bare[plain] == plain


def test_guided_attention_is_the_models_own() -> None:
    model, tokenizer = bundled()
    eager = GPT2LMHeadModel(model.config).eval()
    eager.load_state_dict(model.state_dict())
    eager.set_attn_implementation("eager")
    batch = create_batch(tokenizer, "1/1", 2, 64)
    with torch.inference_mode():
        output = eager(
            input_ids=batch.tokens[:, :-1], output_attentions=True, output_hidden_states=True
        )
        for layer, head in TrainSettings().source_heads:
            attention = log_attention(eager, output.hidden_states[layer], layer, head).exp()
            assert torch.allclose(attention, output.attentions[layer][:, head], atol=1e-5)


@pytest.mark.parametrize("system", ["", "Be kind."])
def test_chat_template_writes_tools_as_training_saw_them(system: str) -> None:
    _, tokenizer = bundled()
    random = Random("template")
    for _ in range(50):
        abilities = create_abilities(random, 2)
        task = create_task(random, abilities[0], abilities[0].requests)
        tools = [ability.tool for ability in abilities]
        listed = list_tools(tools)
        turns = [
            Turn("system", f"{system}\n{listed}" if system else listed),
            Turn("user", task.request),
            *write_called(task),
            Turn("assistant", task.answer),
        ]
        made = {"name": tools[0].name, "arguments": task.arguments}
        messages: list[dict[str, object]] = [
            *([{"role": "system", "content": system}] if system else []),
            {"role": "user", "content": task.request},
            {"role": "assistant", "content": None, "tool_calls": [{"function": made}]},
            {"role": "tool", "content": task.result},
            {"role": "assistant", "content": task.answer},
        ]
        offered = [to_openai(tool) for tool in tools]
        written = tokenizer.apply_chat_template(messages, tools=offered, tokenize=False)
        assert written == render(turns)


def test_chat_template_writes_several_calls_and_unknown_schemas() -> None:
    _, tokenizer = bundled()
    calls = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": {}}},
    ]
    properties = {"x": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "y": {"enum": [1, 2]}}
    function = {"name": "f", "parameters": {"type": "object", "properties": properties}}
    written = tokenizer.apply_chat_template(
        [{"role": "assistant", "content": "So:", "tool_calls": calls}],
        tools=[{"type": "function", "function": function}],
        tokenize=False,
    )
    assert written == (
        '<|system|><tools>\n{"name": "f", "description": "", "parameters": {"x": "any", '
        '"y": [1, 2]}}\n</tools><|end|><|assistant|>So:\n'
        '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call><|end|>'
    )
