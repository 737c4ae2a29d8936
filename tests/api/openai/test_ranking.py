"""Rerank and score: HuggingFace's probability of `yes` after Qwen3-Reranker's prompt."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from src.api.labels import AT_ONCE
from src.api.openai.ranking.schemas import MAX_DOCUMENTS
from tests.api.openai.test_errors import error_of
from tests.support.servers import LocalServer, Server
from tests.support.tiny_models import BATCHED, VOCAB_SIZE, create_tokenizer, write_model
from tests.support.wire import post

MODEL = "storyteller"
QUERY = "What is the capital of France?"
DOCUMENTS = ["The capital of France is Paris.", "A dragon slept.", "Rome is in Italy. " * 9]
RERANK = {"model": MODEL, "query": QUERY, "documents": DOCUMENTS}
TOLERANCE = 1e-4
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".'
)
TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
SPECIAL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
LABELS = ("the", "cat")
"""Words of the tiny tokenizer, which has no `yes`."""


def expected_scores(
    server: Server | LocalServer,
    folder: str | Path,
    documents: list[str],
    query: str = QUERY,
    instruction: str = INSTRUCTION,
) -> list[float]:
    """HuggingFace's, over the chat template's tokens."""
    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    words = (
        post(server, "/tokenize", prompt=word, add_special_tokens=False).json()["tokens"]
        for word in ("yes", "no")
    )
    yes, no = (tokens[0] for tokens in words)
    scores = []
    for document in documents:
        content = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
        messages = [{"role": "system", "content": JUDGE}, {"role": "user", "content": content}]
        token_ids = post(server, "/tokenize", messages=messages).json()["tokens"]
        with torch.inference_mode():
            logits = oracle(torch.tensor([token_ids])).logits[0, -1]
        scores.append(logits[[yes, no]].softmax(0)[0].item())
    return scores


@pytest.fixture(scope="module")
def expected(server) -> list[float]:
    return expected_scores(server, "src/bundled/storyteller", DOCUMENTS)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_documents_are_sorted_by_the_probability_of_yes(server, expected, path):
    answer = post(server, path, **RERANK).json()
    found = {one["index"]: one["relevance_score"] for one in answer["results"]}
    assert [found[index] for index in range(3)] == pytest.approx(expected, abs=TOLERANCE)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert all(one["document"]["text"] == DOCUMENTS[one["index"]] for one in answer["results"])
    assert answer["id"].startswith("rerank-")
    assert answer["model"] == MODEL
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 300


def test_coheres_form_has_no_documents_unless_they_are_wanted(server, expected):
    answer = post(server, "/v2/rerank", **RERANK, top_n=1).json()
    assert answer["meta"] == {"billed_units": {"search_units": 1}}
    (best,) = answer["results"]
    assert best.keys() == {"index", "relevance_score"}
    assert best["relevance_score"] == pytest.approx(max(expected), abs=TOLERANCE)
    wanted = post(server, "/v2/rerank", **RERANK, top_n=1, return_documents=True).json()
    assert wanted["results"][0]["document"] == {"text": DOCUMENTS[best["index"]]}


def test_objects_are_the_texts_that_they_hold(server):
    objects = [{"text": text, "title": "any"} for text in DOCUMENTS]
    answers = [
        post(server, "/v1/rerank", **RERANK | {"documents": documents}).json()["results"]
        for documents in (DOCUMENTS, objects)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("names", [("text_1", "text_2"), ("queries", "documents")])
def test_scores_are_in_the_order_of_the_pairs(server, expected, path, names):
    query_name, name = names
    one = post(server, path, model=MODEL, **{query_name: QUERY, name: DOCUMENTS}).json()
    assert [item["index"] for item in one["data"]] == [0, 1, 2]
    found = [item["score"] for item in one["data"]]
    assert found == pytest.approx(expected, abs=TOLERANCE)
    pairs = post(server, path, model=MODEL, **{query_name: [QUERY] * 3, name: DOCUMENTS}).json()
    assert [item["score"] for item in pairs["data"]] == pytest.approx(found, abs=1e-6)


def test_the_instruction_is_the_requests(server):
    documents, instruction = DOCUMENTS[:1], "Find stories about dragons"
    body = RERANK | {"documents": documents, "instruction": instruction}
    (result,) = post(server, "/v1/rerank", **body).json()["results"]
    folder = "src/bundled/storyteller"
    (score,) = expected_scores(server, folder, documents, instruction=instruction)
    assert result["relevance_score"] == pytest.approx(score, abs=TOLERANCE)


def test_a_longer_document_is_cut_to_its_first_tokens(server):
    long = DOCUMENTS[2]
    ids = post(server, "/tokenize", prompt=long, add_special_tokens=False).json()["tokens"]
    first = post(server, "/detokenize", tokens=ids[:6]).json()["prompt"]
    cut, short = (
        post(server, "/v1/rerank", **RERANK | {"documents": [document]} | fields).json()
        for document, fields in ((long, {"max_tokens_per_doc": 6}), (first, {}))
    )
    assert cut["results"][0]["relevance_score"] == short["results"][0]["relevance_score"]
    assert cut["results"][0]["document"] == {"text": long}


def test_documents_share_the_prefix_of_the_query(server):
    body = RERANK | {"query": "Who lives in the tower beside the sea?", "documents": ["one"]}
    post(server, "/v1/rerank", **body)
    before = server.sample("cached_prompt_tokens_total")
    post(server, "/v1/rerank", **body | {"documents": ["two", "three"]})
    assert server.sample("cached_prompt_tokens_total") - before > 100


def test_many_documents_are_judged_in_their_order(start_server):
    server = start_server(model_name=MODEL, max_batch_size=4, max_queue_size=2)
    documents = [f"Number {number}." for number in range(AT_ONCE + 5)]
    together = post(server, "/score", model=MODEL, text_1=QUERY, text_2=documents).json()["data"]
    for number in (0, 7, AT_ONCE + 4):
        alone = post(server, "/score", model=MODEL, text_1=QUERY, text_2=documents[number]).json()
        assert together[number]["score"] == pytest.approx(alone["data"][0]["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/rerank", {"query": ""}, "query"),
        ("/v1/rerank", {"documents": []}, "documents"),
        ("/v1/rerank", {"documents": ["a"] * (MAX_DOCUMENTS + 1)}, "documents"),
        ("/v1/rerank", {"documents": ["a", 1]}, "documents"),
        ("/v1/rerank", {"documents": ["a", {"image": "b"}]}, "documents"),
        ("/v1/rerank", {"documents": ["a", "word " * 1500]}, "documents.[1]"),
        ("/v1/rerank", {"top_n": 0}, "top_n"),
        ("/v1/rerank", {"max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        ("/v1/score", {"query": None, "queries": ["a", "b"], "documents": ["c"] * 3}, "documents"),
        ("/v1/score", {"query": None, "queries": None}, "queries"),
        ("/v1/score", {"query": None, "queries": "a", "text_1": "b"}, "queries"),
    ],
)
def test_an_invalid_field_is_named(client, path, fields, param):
    body = {name: value for name, value in (RERANK | fields).items() if value is not None}
    assert error_of(client.post(path, json=body), 400)["param"] == param


def test_another_model_is_not_found(client):
    answer = client.post("/v1/rerank", json=RERANK | {"model": "rerank-v3.5"})
    assert error_of(answer, 404)["code"] == "model_not_found"


@pytest.fixture(scope="module")
def tiny_qwen3(tmp_path_factory) -> Path:
    """A random model with room for Qwen3-Reranker's prompt; its tokenizer has Qwen3's tags."""
    shape = BATCHED["qwen3"] | {"max_position_embeddings": 1024, "vocab_size": VOCAB_SIZE + 8}
    folder = write_model(tmp_path_factory.mktemp("qwen3"), "qwen3", shape)
    create_tokenizer(*SPECIAL).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("has_template", [True, False])
def test_a_tiny_qwen3_gets_the_prompt_of_qwen3_reranker(start_server, tiny_qwen3, has_template):
    template = tiny_qwen3 / "chat_template.jinja"
    template.unlink(missing_ok=True)
    if has_template:
        template.write_text(TEMPLATE)
    server = start_server(
        model_name=str(tiny_qwen3), rerank_labels=", ".join(LABELS), rerank_instruction="the mat"
    )
    documents = ["the dog", "the mat", "there was a hat"]
    body = {"model": server.engine.model_name, "text_1": "the cat", "text_2": documents}
    answer = post(server, "/score", **body)
    assert answer.status_code == 200, answer.text
    found = [one["score"] for one in answer.json()["data"]]

    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen3)
    oracle = AutoModelForCausalLM.from_pretrained(tiny_qwen3, dtype=torch.float32).eval()
    judge = JUDGE.replace("yes", LABELS[0]).replace('"no"', f'"{LABELS[1]}"')
    space = "" if has_template else " "
    yes, no = (tokenizer(space + label)["input_ids"][0] for label in LABELS)
    assert yes != no
    expected = []
    for document in documents:
        user = f"<Instruct>: the mat\n<Query>: the cat\n<Document>: {document}"
        text = f"{judge}\n\n{user}\n\nAnswer:"
        if has_template:
            text = (
                f"<|im_start|>system\n{judge}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
                "<|im_start|>assistant\n<think>\n\n</think>\n\n"
            )
        with torch.inference_mode():
            logits = oracle(**tokenizer(text, return_tensors="pt")).logits[0, -1]
        expected.append(logits[[yes, no]].softmax(0)[0].item())
    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert max(found) - min(found) > 100 * TOLERANCE  # a constant would not pass


def test_answers_that_begin_alike_are_refused(start_server, tiny_model):
    server = start_server(model_name=str(tiny_model("qwen3")))  # both are a space and letters
    answer = post(server, "/score", model=server.engine.model_name, text_1="a", text_2="b")
    assert "answers apart by their first tokens: yes, no" in error_of(answer, 400)["message"]
