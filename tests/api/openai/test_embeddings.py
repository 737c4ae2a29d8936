"""`/v1/embeddings` through OpenAI's client: HuggingFace's mean hidden states, at length 1."""

import base64
import struct
import threading

import httpx2
import openai
import pytest
import torch
from openai.types import CreateEmbeddingResponse
from transformers import AutoModel

from src.core.request_runner import MAX_EMBEDDED_AT_ONCE
from tests.api.openai.test_chat_and_completions import MODEL, tokens_of
from tests.api.openai.test_errors import error_of, refused
from tests.conftest import wait_until
from tests.support.servers import ROOT
from tests.support.wire import assert_shape, openai_client, post

EMBEDDINGS = "/v1/embeddings"
TEXTS = [
    "The capital of France is Paris.",
    "2 + 2 = 4",
    "Once upon a time there lived a king. " * 20,
]
BODY = {"model": MODEL, "input": "a"}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def ai(server):
    with openai_client(server) as client:
        yield client


def embed(client: openai.OpenAI, model: str, *texts: str, **options: object) -> list[list[float]]:
    answer = client.embeddings.create(model=model, input=list(texts), **options)
    assert [one.index for one in answer.data] == list(range(len(texts)))
    return [one.embedding for one in answer.data]


def test_embeddings_are_the_mean_hidden_states_at_length_1(ai, server):
    model = AutoModel.from_pretrained(ROOT / "src/bundled/storyteller", dtype=torch.float32)
    for text, found in zip(TEXTS, embed(ai, MODEL, *TEXTS), strict=True):
        with torch.inference_mode():
            states = model(torch.tensor([tokens_of(server, text)])).last_hidden_state[0]
        mean = states.mean(dim=0)
        assert found == pytest.approx((mean / mean.norm()).tolist(), abs=TOLERANCE)


def test_a_batch_of_mixed_lengths_is_what_each_text_gives_alone(ai):
    together = embed(ai, MODEL, *TEXTS)
    for text, found in zip(TEXTS, together, strict=True):
        (alone,) = embed(ai, MODEL, text)
        assert alone == pytest.approx(found, abs=TOLERANCE)


def test_both_formats_are_equal(server):
    answer = post(server, EMBEDDINGS, model=MODEL, input=TEXTS, encoding_format="float").json()
    packed = post(server, EMBEDDINGS, model=MODEL, input=TEXTS, encoding_format="base64").json()
    assert post(server, EMBEDDINGS, model=MODEL, input=TEXTS).json() == answer
    for plain, other in zip(answer["data"], packed["data"], strict=True):
        data = base64.b64decode(other["embedding"])
        assert plain["embedding"] == list(struct.unpack(f"<{len(data) // 4}f", data))
    assert_shape(CreateEmbeddingResponse, answer)
    assert answer["usage"] == packed["usage"]
    assert answer["model"] == MODEL


def test_token_ids_are_the_text_that_they_spell(ai, server):
    ids = [tokens_of(server, text) for text in TEXTS]
    assert embed(ai, MODEL, *ids) == embed(ai, MODEL, *TEXTS)
    one = ai.embeddings.create(model=MODEL, input=ids[0])
    assert one.data[0].embedding == pytest.approx(embed(ai, MODEL, TEXTS[0])[0], abs=TOLERANCE)


def test_all_tokens_are_counted(ai, server):
    usage = ai.embeddings.create(model=MODEL, input=TEXTS, user="me").usage
    expected = sum(len(tokens_of(server, text)) for text in TEXTS)
    assert (usage.prompt_tokens, usage.total_tokens) == (expected, expected)


def test_the_models_own_size_alone_can_be_asked_for(ai, client):
    (embedding,) = embed(ai, MODEL, "a")
    size = len(embedding)
    assert embed(ai, MODEL, "a", dimensions=size) == [embedding]
    error = error_of(client.post(EMBEDDINGS, json=BODY | {"dimensions": size // 2}), 400)
    assert (error["param"], error["code"]) == ("dimensions", "invalid_value")
    assert f"these dimensions: {size}." in error["message"]
    assert "EMBEDDING_DIMENSIONS" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": ""}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": None}, "input", "invalid_value"),
        ({"input": ["a", ""]}, "input.[1]", "invalid_value"),
        ({"input": ["a", 1]}, "input", "invalid_value"),
        ({"input": [[1], [10**9]]}, "input.[1]", "invalid_value"),
        ({"input": ["a"] * 2049}, "input", "invalid_value"),
        ({"input": "a " * 2000}, "input", "context_length_exceeded"),
        ({"input": [[5], [5] * 1025]}, "input.[1]", "context_length_exceeded"),
        ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"dimensions": 0}, "dimensions", "invalid_value"),
        ({"dimensions": 2**40}, "dimensions", "invalid_value"),
        ({"prompt_name": "query"}, "prompt_name", "invalid_value"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value"),
        ({"temperature": 1}, "temperature", "unknown_parameter"),
    ],
)
def test_an_invalid_field_is_named(client, fields, param, code):
    assert refused(client, EMBEDDINGS, BODY | fields) == (param, code)


def test_a_prompt_may_fill_the_context(client):
    answer = client.post(EMBEDDINGS, json=BODY | {"input": [5] * 1024}).json()
    assert answer["usage"]["total_tokens"] == 1024


def test_another_model_is_not_found(client):
    answer = refused(client, EMBEDDINGS, BODY | {"model": "text-embedding-3-small"}, 404)
    assert answer == ("model", "model_not_found")


def test_a_model_that_does_not_tell_its_hidden_states_says_so(start_server, tiny_model):
    server = start_server(model_name=str(tiny_model("llama4_text")))
    response = post(server, EMBEDDINGS, model=server.engine.model_name, input="the cat")
    error = error_of(response, 400)
    assert error["param"] == "model"
    assert "hidden states" in error["message"]


@pytest.mark.parametrize("engine", ["continuous", "reference"])
def test_more_inputs_than_the_queue_holds_are_embedded_in_their_order(start_server, engine):
    server = start_server(engine=engine, max_batch_size=2, max_queue_size=3)
    name = server.engine.model_name
    texts = ["the cat " * (1 + number % 7) for number in range(MAX_EMBEDDED_AT_ONCE + 9)]
    with openai_client(server) as client:
        found = embed(client, name, *texts)
        for number in (0, 5, 40):
            (alone,) = embed(client, name, texts[number])
            assert found[number] == pytest.approx(alone, abs=TOLERANCE)


def test_a_full_queue_is_told(start_server):
    server = start_server(max_batch_size=1, max_queue_size=0)
    gate = server.hold()
    body = {"model": server.engine.model_name, "input": "the cat"}
    asking = threading.Thread(
        target=httpx2.post, args=[server.url + EMBEDDINGS], kwargs={"json": body}
    )
    asking.start()
    gate.wait()
    response = post(server, EMBEDDINGS, **body)
    assert error_of(response, 503)["code"] == "overloaded"
    assert int(response.headers["retry-after"]) >= 1
    gate.open()
    asking.join()


def test_a_client_that_leaves_frees_its_place(start_server):
    server = start_server()
    gate = server.hold()
    body = {"model": server.engine.model_name, "input": ["the cat", "the hat"]}
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(server.url + EMBEDDINGS, json=body, timeout=0.5)
    # Known before the step goes on: one is all that these take.
    wait_until(lambda: server.sample("inference_requests_total", EMBEDDINGS, "cancelled") == 1)
    gate.open()
    wait_until(lambda: server.sample("inference_sequences_aborted_total", "cancelled") == 2)


def test_the_time_limit_holds(start_server):
    server = start_server(timeout_seconds=1)
    gate = server.hold()
    response = post(server, EMBEDDINGS, model=server.engine.model_name, input="the cat")
    assert error_of(response, 504)["code"] == "timeout"
    gate.open()
    wait_until(lambda: server.sample("inference_sequences_aborted_total", "timeout") == 1)


@pytest.mark.parametrize("engine", ["continuous", "reference"])
def test_a_model_that_fails_is_told_and_counted(start_server, engine):
    server = start_server(engine=engine)
    model = server.engine._lifecycle.loaded.model
    decoder = model.transformer
    decoder.forward = lambda *args, **kwargs: fail()  # the reference engine runs it alone

    def fail() -> None:
        raise RuntimeError("made to fail")

    response = post(server, EMBEDDINGS, model=server.engine.model_name, input="the cat")
    error = error_of(response, 500)
    assert error["code"] == "internal_error"
    assert "made to fail" not in error["message"]
    wait_until(lambda: server.sample("inference_sequences_failed_total", "error") == 1)


def test_embeddings_are_counted_apart_from_tokens(start_server):
    server = start_server()
    name = server.engine.model_name
    answer = post(server, EMBEDDINGS, model=name, input=["the cat", "the hat sat"]).json()
    found = server.samples()
    assert found["inference_sequences_started_total",] == 2
    assert found["inference_sequences_finished_total", "embedded"] == 2
    assert found["prompt_tokens_total",] == answer["usage"]["prompt_tokens"]
    assert found["generated_tokens_total",] == 0
    assert found["inference_queue_seconds_count", "embeddings", "admitted"] == 2
    labels = ("", "embeddings", "llm-inference", name)
    assert found[("gen_ai_server_request_duration_seconds_count", *labels)] == 2
    assert found["inference_requests_total", EMBEDDINGS, "success"] == 1


def test_a_stream_goes_on_while_a_long_text_is_embedded(start_server):
    """Each step between computes a piece of the text and a token of the stream."""
    server = start_server(max_batch_size=2, max_num_batched_tokens=8)
    gate = server.hold()
    body = {"model": server.engine.model_name, "input": [[5] * 100]}
    answers: list[httpx2.Response] = []
    asking = threading.Thread(target=lambda: answers.append(post(server, EMBEDDINGS, **body)))
    stream_body = {"prompt": "the cat", "max_length": 60, "stream": True}
    gate.permit(1)
    with httpx2.stream("POST", server.url + "/generate", json=stream_body, timeout=60) as stream:
        asking.start()
        wait_until(lambda: server.engine.num_live == 2)
        before = server.sample("generated_tokens_total")
        gate.let(10)
        assert server.sample("generated_tokens_total") - before >= 9
        assert not answers
        gate.open()
        stream.read()
    asking.join()
    assert answers[0].status_code == 200
