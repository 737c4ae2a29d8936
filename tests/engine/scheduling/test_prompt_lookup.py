"""Prompt lookup decoding: saves steps if text repeats, and changes no token."""

import pytest

from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.prompt_lookup import NGRAM_SIZE, DraftLimits, PromptLookup
from tests.conftest import wait_until
from tests.engine.test_core import create_small_core, create_token_ids
from tests.support.engines import Answer, SteppedCore, assert_same_logprobs
from tests.support.servers import LocalServer

COPIES = 4 * [5, 6, 7, 8, 9, 10, 11, 12]

pytestmark = pytest.mark.usefixtures("one_thread")


# Drafts.


def test_a_draft_is_what_followed_the_last_occurrence_of_the_ngram():
    lookup = PromptLookup([1, 2, 3, 4, 1, 2, 3, 5, 6, 1, 2, 3], max_draft_tokens=8)
    assert lookup.draft(4) == [5, 6, 1, 2]
    assert lookup.draft(8) == [5, 6, 1, 2, 3, 5, 6, 1]  # the followers are repeated


def test_an_ngram_without_another_occurrence_gives_no_draft():
    token_ids = [1, 2, 3, 4]
    lookup = PromptLookup(token_ids, max_draft_tokens=8)
    assert lookup.draft(8) == []
    token_ids += [9, 2, 3, 4]
    assert lookup.draft(2) == [9, 2]
    assert PromptLookup([1], max_draft_tokens=8).draft(8) == []
    assert PromptLookup([1] * NGRAM_SIZE, max_draft_tokens=8).draft(8) == []
    assert PromptLookup([1] * (NGRAM_SIZE + 1), max_draft_tokens=8).draft(3) == [1, 1, 1]


def test_the_length_of_drafts_follows_from_the_accepted_tokens():
    lookup = PromptLookup([*range(50), *range(NGRAM_SIZE)], max_draft_tokens=8)
    lengths = []
    for num_right in (8, 0, 1, 2, 3, 8, 8):
        lengths.append(len(draft := lookup.draft(20)))
        lookup.learn(len(draft), min(num_right, len(draft)))
    assert lengths == [8, 8, 1, 2, 4, 3, 6]


@pytest.mark.parametrize(
    ("num_tokens", "num_sequences", "most"),
    [(1, 1, 15), (2, 2, 7), (4, 4, 3), (8, 8, 1), (9, 9, 0), (40, 2, 0), (0, 0, 16)],
)
def test_drafts_fill_a_step_up_to_its_cheap_size(num_tokens, num_sequences, most):
    assert DraftLimits(20, 16).per_sequence(num_tokens, num_sequences) == most


# Answers with and without drafts.

VARIETY = {
    "greedy": {"temperature": 0, "logprobs": 3},
    "drawn": {"temperature": 0.6, "top_p": 0.9, "logprobs": 0},
    "from all": {"temperature": 0.5, "top_p": 1},
    "biased": {"temperature": 0.3, "logit_bias": {7: 5.0}, "repetition_penalty": 1.2},
    "penalized": {"temperature": 0, "frequency_penalty": 0.3, "presence_penalty": 0.5},
    "at least": {"temperature": 0, "min_tokens": 20, "stop_token_ids": tuple(range(2, 40, 2))},
    "stopped": {"temperature": 0, "stop_token_ids": (9, 11, 30)},
}


def answer_all(folder: object, num_speculative_tokens: int) -> tuple[dict[str, Answer], list[int]]:
    """Answers all requests in order; also returns the number of accepted tokens of each step."""
    core = create_small_core(folder, num_speculative_tokens=num_speculative_tokens)
    stepped, accepted = SteppedCore(core), []
    for name, params in VARIETY.items():
        for number, prompt in enumerate((COPIES, create_token_ids(1, 30) * 2)):
            chosen = SamplingParams(**({"max_tokens": 40, "seed": 5} | params))
            stepped.add(Request(f"{name} {number}", prompt, chosen))
            while stepped.core.has_work:
                update = stepped.step()
                assert update.step.num_accepted <= update.step.num_drafted
                accepted.append(update.step.num_accepted)
    return stepped.answers, accepted


@pytest.mark.parametrize("name", ["gpt2", "mistral", "gemma2", "qwen3_moe"])
def test_answers_are_the_same_with_drafts_and_take_fewer_steps(name, tiny_model):
    plain, none = answer_all(tiny_model(name), 0)
    guessed, accepted = answer_all(tiny_model(name), 15)
    assert set(none) == {0}
    assert sum(accepted) > 20
    assert len(accepted) == len(none) - sum(accepted)
    for request_id, expected in plain.items():
        found = guessed[request_id]
        assert (found.token_ids, found.reason) == (expected.token_ids, expected.reason)
        assert_same_logprobs(found.logprobs, expected.logprobs)


def test_an_embedding_has_no_draft_though_its_last_chunk_is_one_token(tiny_model):
    embeddings = []
    for num_speculative_tokens in (0, 15):
        core = create_small_core(
            tiny_model("llama"), budget=40, num_speculative_tokens=num_speculative_tokens
        )
        updates = []
        core.add(Request("a", (6 * COPIES)[:41], SamplingParams(), embeds=True))
        while core.has_work:
            updates.append(core.step())
        assert [one.step.num_tokens for one in updates] == [40, 1]
        embeddings.append(updates[-1].outputs[0].embedding)
    assert embeddings[0] == pytest.approx(embeddings[1])


def test_the_first_token_of_a_cached_prompt_has_no_draft(tiny_model):
    core = create_small_core(tiny_model("gpt2"))
    params = SamplingParams(max_tokens=9, temperature=0, logit_bias={5: 100.0})
    for request_id in ("first", "again"):
        core.add(Request(request_id, [5] * 20, params))
        outputs = []
        while core.has_work:
            outputs += core.step().outputs
        assert len(outputs[0].new_token_ids) == 1
        assert len(outputs) < 9  # later drafts were accepted
    assert outputs[0].admission.num_cached_tokens == 16


def test_a_stop_text_among_drafted_tokens_ends_the_answer_at_the_same_place(
    start_server, tiny_model
):
    servers = [
        start_server(model_name=str(tiny_model("gpt2")), num_speculative_tokens=number)
        for number in (0, 15)
    ]
    the = servers[0].engine._lifecycle.loaded.tokenizer.token_to_id("Ġthe")

    def ask(server: LocalServer, **body: object) -> dict[str, object]:
        body |= {"prompt": "the cat", "max_length": 40, "logit_bias": {str(the): 6}, "seed": 1}
        return server.post(body).json()["generated"][0]

    whole = ask(servers[0])["text"].removeprefix("the cat")
    assert whole.count(" the") > 20
    stops = {whole[start : start + length] for length in range(20, 60, 3) for start in (0, 10, 40)}
    stops = {stop for stop in stops if stop.isascii()}
    before = [server.sample("generated_tokens_total") for server in servers]
    num_tokens = 0
    for stop in stops:
        answers = [ask(server, stop=[stop]) for server in servers]
        assert answers[0] == answers[1]
        assert answers[0]["finish_reason"] == "stop"
        num_tokens += answers[0]["tokens"]
    for server, count in zip(servers, before, strict=True):
        assert server.sample("generated_tokens_total") == count + num_tokens
    wait_until(lambda: servers[1].engine.num_live == 0)
    samples = servers[1].samples()  # all of one moment: a step may be counted after its answer
    drafted, accepted = (
        samples[f"inference_{kind}_tokens_total",] for kind in ("drafted", "accepted")
    )
    assert drafted >= accepted > 20
    assert servers[0].sample("inference_drafted_tokens_total") == 0
    later = servers[1].sample("inference_inter_token_seconds_count")
    assert servers[1].sample("generated_tokens_total") == later + len(stops)
