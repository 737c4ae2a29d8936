"""The native API, over the real app and model."""

import re

import pytest
from fastapi.testclient import TestClient

from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.wire import bodies, with_a_stored_file


def post(client: TestClient, **body: object):
    return client.post("/generate", json=body)


def problems(response) -> list[tuple[list[str | int], str]]:
    assert response.status_code == 422, response.text
    return [(problem["loc"], problem["msg"]) for problem in response.json()["detail"]]


def test_answers_in_the_promised_shape(client):
    response = post(
        client,
        prompt="Once upon a time",
        max_length=50,
        temperature=0.7,
        num_return_sequences=1,
    )
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"generated", "model", "prompt_tokens"}
    assert body["model"] == "storyteller"
    assert body["prompt_tokens"] >= 4
    (generated,) = body["generated"]
    assert set(generated) == {"text", "tokens", "finish_reason"}
    assert generated["text"].startswith("Once upon a time")
    assert 1 <= generated["tokens"] <= 50
    assert generated["finish_reason"] in ("stop", "length")


def test_gives_as_many_sequences_as_were_asked_for(client):
    response = post(client, prompt="The future of AI is", max_length=5, num_return_sequences=3)
    assert len(response.json()["generated"]) == 3


def test_a_seed_makes_the_answer_repeatable(client):
    body = {"prompt": "Once", "max_length": 20, "temperature": 1.5, "top_p": 1.0, "seed": 3}
    first, second = post(client, **body).json(), post(client, **body).json()
    assert first == second
    assert post(client, **(body | {"seed": 4})).json() != first


def test_temperature_zero_is_repeatable_without_a_seed(client):
    body = {"prompt": "The capital of France is", "max_length": 10, "temperature": 0}
    assert post(client, **body).json() == post(client, **body).json()


def test_top_k_one_is_greedy(client):
    body = {"prompt": "The capital of France is", "max_length": 10}
    greedy = post(client, temperature=0, **body).json()
    assert post(client, temperature=2, top_p=1, top_k=1, **body).json() == greedy


def test_a_stop_text_is_left_out(client):
    body = {"prompt": "Once upon a time", "max_length": 40, "temperature": 0}
    new_text = post(client, **body).json()["generated"][0]["text"].removeprefix("Once upon a time")
    stop = new_text[3:6]
    for given in (stop, [stop, "\0"]):
        (generated,) = post(client, stop=given, **body).json()["generated"]
        assert generated["text"] == "Once upon a time" + new_text[: new_text.index(stop)]
        assert generated["finish_reason"] == "stop"


GREEDY = {"prompt": "Once upon a time", "max_length": 20, "temperature": 0}


def generated(client: TestClient, **fields: object) -> dict:
    """The one continuation of GREEDY with other fields."""
    response = post(client, **(GREEDY | fields))
    assert response.status_code == 200, response.text
    return response.json()["generated"][0]


def greedy_token_ids(client: TestClient) -> list[int]:
    return [position["id"] for position in generated(client, logprobs=0)["logprobs"]]


def test_the_new_text_can_be_had_alone(client):
    full, new = generated(client), generated(client, return_full_text=False)
    assert full["text"] == GREEDY["prompt"] + new["text"]
    batch = {"prompts": [GREEDY["prompt"]], "max_length": 20, "temperature": 0}
    (answer,) = client.post("/generate/batch", json=batch | {"return_full_text": False}).json()
    assert answer["generated"] == [new]


def test_a_bias_forces_a_token_and_a_bias_bans_one(client):
    token_id = greedy_token_ids(client)[5]
    forced = generated(client, logit_bias={str(token_id): 100}, logprobs=0, max_length=5)
    assert [position["id"] for position in forced["logprobs"]] == [token_id] * 5
    banned = generated(client, logit_bias={str(token_id): -100}, logprobs=0)
    assert token_id not in [position["id"] for position in banned["logprobs"]]


def test_a_stop_token_ends_the_text_and_is_left_out(client):
    token_ids = greedy_token_ids(client)
    whole = generated(client)["text"]
    at = next(at for at in range(3, 20) if token_ids[at] not in token_ids[:at])
    stopped = generated(client, stop_token_ids=[token_ids[at]])
    assert (stopped["tokens"], stopped["finish_reason"]) == (at + 1, "stop")
    assert whole.startswith(stopped["text"])
    assert stopped["text"] == generated(client, max_length=at)["text"]


def test_end_tokens_end_a_text_unless_they_are_to_be_ignored(start_client, tiny_model):
    client = start_client(model_name=str(tiny_model()), temperature=0)
    always_the_end = {"prompt": "the cat", "max_length": 9, "logit_bias": {"0": 100}}
    (ended,) = post(client, **always_the_end).json()["generated"]
    assert ended == {"text": "the cat", "tokens": 1, "finish_reason": "stop"}
    (ignored,) = post(client, ignore_eos=True, **always_the_end).json()["generated"]
    assert (ignored["tokens"], ignored["finish_reason"]) == (9, "length")


def test_no_text_ends_before_min_length(start_client, tiny_model):
    client = start_client(model_name=str(tiny_model()), temperature=0)
    wants_to_end = {"prompt": "the cat", "max_length": 9, "logit_bias": {"0": 100}}
    (later,) = post(client, min_length=5, **wants_to_end).json()["generated"]
    assert (later["tokens"], later["finish_reason"]) == (6, "stop")


def test_a_stop_text_before_min_length_stays(client):
    new_text = generated(client, return_full_text=False)["text"]
    stop = new_text[1:3]
    whole = generated(client, stop=stop, min_length=20, return_full_text=False)
    assert whole["text"] == new_text
    assert generated(client, stop=stop, return_full_text=False)["text"] == new_text[:1]


def test_penalties_make_a_text_repeat_itself_less(client):
    def num_distinct(**penalty: float) -> int:
        answer = generated(client, max_length=200, ignore_eos=True, logprobs=0, **penalty)
        return len({position["id"] for position in answer["logprobs"]})

    plain = num_distinct()
    assert num_distinct(repetition_penalty=5.0) > plain
    assert num_distinct(presence_penalty=2) > plain
    assert num_distinct(frequency_penalty=2) > plain


def test_min_p_of_one_is_greedy(client):
    greedy = generated(client)
    assert generated(client, temperature=2, top_p=1, min_p=1) == greedy


def test_tells_the_log_probability_of_each_token_and_of_the_most_likely_ones(client):
    answer = generated(client, logprobs=3, return_full_text=False)
    assert len(answer["logprobs"]) == answer["tokens"]
    for position in answer["logprobs"]:
        assert set(position) == {"id", "token", "logprob", "top"}
        assert [set(one) for one in position["top"]] == [{"id", "token", "logprob"}] * 3
        values = [one["logprob"] for one in position["top"]]
        assert values == sorted(values, reverse=True)
        assert 0 >= values[0] == position["logprob"]
        assert position["id"] == position["top"][0]["id"]
    assert "".join(position["token"] for position in answer["logprobs"]) == answer["text"]
    assert "logprobs" not in generated(client)
    assert [one["top"] for one in generated(client, logprobs=0)["logprobs"]] == [[]] * 20


def test_tells_the_log_probability_of_each_prompt_token_but_the_first(client):
    body = post(client, **GREEDY, prompt_logprobs=1).json()
    assert len(body["prompt_logprobs"]) == body["prompt_tokens"] - 1
    text = "".join(position["token"] for position in body["prompt_logprobs"])
    assert GREEDY["prompt"].endswith(text)
    assert {len(position["top"]) for position in body["prompt_logprobs"]} == {1}
    for position in body["prompt_logprobs"]:
        assert position["logprob"] <= position["top"][0]["logprob"] <= 0
    assert "prompt_logprobs" not in post(client, **GREEDY).json()


def test_prompt_and_new_tokens_have_the_log_probabilities_that_scoring_gives(client):
    """Generated text that is sent back as a prompt gets the log-probabilities of its generation."""
    answer = generated(client, logprobs=0, max_length=8)
    scored = post(client, prompt=answer["text"], max_length=1, prompt_logprobs=0).json()
    for new, old in zip(scored["prompt_logprobs"][-8:], answer["logprobs"], strict=True):
        assert new["id"] == old["id"]
        assert new["logprob"] == pytest.approx(old["logprob"], abs=1e-3)


def test_fewer_tokens_at_most_than_at_least_are_refused(client):
    for fields in ({"max_length": 4, "min_length": 5}, {"min_length": 101}):
        for path, prompt in (
            ("/generate", {"prompt": "a"}),
            ("/generate/batch", {"prompts": ["a"]}),
        ):
            ((loc, message),) = problems(client.post(path, json=prompt | fields))
            assert loc == ["body", "min_length"]
            numbers = {str(fields["min_length"]), str(fields.get("max_length", 100))}
            assert numbers <= set(re.findall(r"\d+", message))


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {"4096000": 1}},
        {"logit_bias": {str(10**30): 1}},
        {"stop_token_ids": [0, 4096000]},
        {"stop_token_ids": [10**30]},
    ],
)
def test_a_token_that_the_model_does_not_have_is_refused(client, fields):
    (field,) = fields
    ((loc, message),) = problems(post(client, prompt="a", **fields))
    assert loc == ["body", field]
    assert "There is no token" in message


def test_the_last_token_of_the_vocabulary_is_one(client):
    ((_, message),) = problems(post(client, prompt="a", stop_token_ids=[10**9]))
    last = int(re.search(r"0 to (\d+)", message)[1])
    for fields in ({"logit_bias": {str(last): 1}}, {"stop_token_ids": [last]}):
        assert post(client, prompt="a", max_length=1, **fields).status_code == 200
    ((_, again),) = problems(post(client, prompt="a", stop_token_ids=[last + 1]))
    assert f"no token {last + 1}" in again


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"logit_bias": {"the": 1}}, ["logit_bias", "the"]),
        ({"logit_bias": {"5": 101}}, ["logit_bias", "5"]),
        ({"stop_token_ids": [1, "2"]}, ["stop_token_ids", 1]),
        ({"logprobs": 21}, ["logprobs"]),
        ({"stream": "yes"}, ["stream"]),
    ],
)
def test_a_bad_value_is_named_down_to_its_place(client, fields, loc):
    (found, *_), *_ = problems(post(client, prompt="a", **fields))
    assert found[: len(loc) + 1] == ["body", *loc]


def test_defaults_come_from_the_settings(start_client, tiny_model):
    client = start_client(
        model_name=str(tiny_model("gpt2")), max_length=3, temperature=0, top_p=0.5
    )
    first = post(client, prompt="the cat").json()
    assert first["generated"][0]["tokens"] <= 3
    assert post(client, prompt="the cat").json() == first
    explicit = post(client, prompt="the cat", max_length=3, temperature=0.0, top_p=1).json()
    assert explicit == first


def test_the_prompt_may_hold_any_text(client):
    for prompt in ("\0", "日本 😀", " ", "<|endoftext|>", '"\\'):
        response = post(client, prompt=prompt, max_length=2)
        assert response.status_code == 200, response.text
        assert response.json()["generated"][0]["text"].startswith(prompt)


def test_a_batch_is_answered_in_order(client):
    prompts = ["The capital of France is", "Once upon a time", "2 + 2 ="]
    common = {"max_length": 5, "temperature": 0}
    response = client.post("/generate/batch", json={"prompts": prompts, **common})
    assert response.status_code == 200
    assert response.json() == [post(client, prompt=prompt, **common).json() for prompt in prompts]


def test_a_bad_prompt_of_a_batch_is_named(client):
    response = client.post("/generate/batch", json={"prompts": ["a", "word " * 2000]})
    ((loc, message),) = problems(response)
    assert loc == ["body", "prompts", 1]
    assert "context length is 1024 tokens" in message


def test_a_request_that_does_not_fit_is_refused_with_field_limit_and_remedy(client):
    ((loc, message),) = problems(post(client, prompt="Once", max_length=5000))
    assert loc == ["body", "max_length"]
    assert "5000 new tokens" in message
    assert "context length is 1024 tokens" in message
    assert re.search(r"ask for at most 10\d\d new tokens", message)


def test_every_problem_is_named_at_once(client):
    response = post(client, prompt="", max_length=0, temperature=3, top_p=0, unknown=1)
    fields = {tuple(loc) for loc, _ in problems(response)}
    names = ("prompt", "max_length", "temperature", "top_p", "unknown")
    assert fields == {("body", name) for name in names}


@pytest.mark.parametrize(
    ("body", "status_code", "text"),
    [
        (b"", 422, "must be a JSON object"),
        (b"null", 422, "must be a JSON object"),
        (b"[]", 422, "must be a JSON object"),
        (b'"a"', 422, "must be a JSON object"),
        (b'{"prompt": "a"', 422, "not valid JSON: Expecting"),
        (b'{"prompt": "\\ud800"}', 422, "Unpaired surrogate"),
        (b'{"\\ud800": 1, "prompt": "a"}', 422, "Unpaired surrogate"),
        (b'{"prompt": "a", "temperature": NaN}', 422, "finite number"),
        (b'{"prompt": "a", "temperature": 1e999}', 422, "finite number"),
        (b'{"prompt": "\xff"}', 400, "cannot be parsed"),
        (b"[" * 20_000, 422, "more than 500 levels"),
        (b'{"prompt": "a", "max_length": ' + b"9" * 5000 + b"}", 400, "cannot be parsed"),
    ],
)
def test_a_body_that_is_no_request_is_refused(client, body, status_code, text):
    headers = {"Content-Type": "application/json"}
    response = client.post("/generate", content=body, headers=headers)
    assert response.status_code == status_code
    assert text in response.text
    assert "x-request-id" in response.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        [
            ("Content-Type", "application/json"),
            ("Content-Encoding", "identity"),
            ("Content-Encoding", "gzip"),
        ],
        {"Content-Type": "application/json", "Transfer-Encoding": "gzip, chunked"},
    ],
)
def test_a_body_that_is_not_sent_as_json_is_refused_unread(client, headers):
    response = client.post("/generate", content=b'{"prompt": "a"}', headers=headers)
    assert response.status_code == 415
    assert "JSON" in response.text or "compressed" in response.text


def test_a_body_that_is_too_large_is_refused(client):
    response = post(client, prompt="a" * (2 << 20))
    assert response.status_code == 413
    assert "larger than 2097152 bytes" in response.json()["detail"]

    def chunks():
        for _ in range(40):
            yield b"a" * (1 << 16)

    headers = {"Content-Type": "application/json"}
    response = client.post("/generate", content=chunks(), headers=headers)
    assert response.status_code == 413


def test_a_body_of_thousands_of_fields_gets_a_short_answer(client):
    response = post(client, **{f"field {number}": 1 for number in range(50_000)})
    ((_, message),) = problems(response)
    assert message == "There are at most 64 fields"


def test_a_large_answer_holds_all_log_probabilities(client):
    fields = {"num_return_sequences": 16, "max_length": 40, "logprobs": 20, "prompt_logprobs": 20}
    answer = post(client, prompt="the cat", temperature=1, **fields).json()
    assert len(answer["prompt_logprobs"]) == answer["prompt_tokens"] - 1
    for generated in answer["generated"]:
        assert len(generated["logprobs"]) == generated["tokens"]
        assert all(len(position["top"]) == 20 for position in generated["logprobs"])


def test_a_body_of_too_many_arrays_is_refused(client):
    most = client.app.state.service.settings.max_body_bytes // 16

    def send(num_arrays: int):
        return post(client, prompt="[" * most, logit_bias=[[]] * (num_arrays - 2))

    ((loc, message),) = problems(send(most + 1))
    assert (loc, message) == (["body"], f"The body has more than {most} objects and arrays.")
    ((loc, _),) = problems(send(most))
    assert loc == ["body", "logit_bias"]


def test_a_path_with_a_slash_at_its_end_is_another_path(client):
    assert client.post("/generate/", json={"prompt": "a"}).status_code == 404


@pytest.mark.parametrize(
    ("stop", "loc"), [("", ["stop", 0]), (["a", ""], ["stop", 1]), (["a"] * 17, ["stop"])]
)
def test_a_bad_stop_text_is_named(client, stop, loc):
    ((found, _),) = problems(post(client, prompt="a", stop=stop))
    assert found == ["body", *loc]


def test_a_megabyte_of_text_is_too_long_not_too_large(client):
    ((loc, _),) = problems(post(client, prompt=" " * 1_000_000))
    assert loc == ["body", "prompt"]


def test_unknown_paths_and_methods(client):
    assert client.get("/nothing").status_code == 404
    response = client.get("/generate")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


def test_a_request_that_outlasts_the_limit_gets_504(start_client, tiny_model):
    client = start_client(model_name=str(tiny_model("gpt2")), timeout_seconds=1e-6)
    response = post(client, prompt="the cat", max_length=100)
    assert response.status_code == 504
    assert "TIMEOUT_SECONDS" in response.json()["detail"]
    wait_until(lambda: client.app.state.service.engine.num_live == 0)


def test_a_failing_model_gives_500_without_its_reason(start_client, tiny_model, capfd):
    client = start_client(model_name=str(tiny_model("gpt2")))

    def fail(*args: object, **kwargs: object) -> object:
        raise RuntimeError("made to fail")

    client.app.state.service.engine._lifecycle.loaded.model.forward = fail
    response = post(client, prompt="secret words")
    assert response.status_code == 500
    assert "made to fail" not in response.text
    assert client.get("/health").json()["status"] == "healthy"
    log = capfd.readouterr().err
    assert "made to fail" in log
    assert "secret words" not in log


def test_health_is_as_promised(client):
    response = client.get("/health")
    assert response.status_code == 200
    body = response.json()
    assert body["status"] == "healthy"
    assert body["model_loaded"] is True
    assert re.fullmatch(r"\d+\.\d+\.\d+", body["version"])
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 200


def test_while_the_model_loads(tiny_model):
    # Without the lifespan nothing loads: the state between listening and ready.
    client = TestClient(create_app(create_settings(model_name=str(tiny_model("gpt2")))))
    response = client.get("/health")
    assert response.status_code == 200
    assert response.json() == response.json() | {"status": "loading", "model_loaded": False}
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 503
    refused = post(client, prompt="the")
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "loading" in refused.json()["detail"]


def test_every_documented_example_works_as_it_stands(client):
    openapi = client.get("/openapi.json").json()
    tried = 0
    for path, name in bodies(openapi).items():
        for example in openapi["components"]["schemas"][name].get("examples", ()):
            response = client.post(path, json=with_a_stored_file(client, example))
            assert response.status_code == 200, (path, example, response.text)
            tried += 1
    assert tried >= 2


def test_every_field_is_described_and_every_error_answer_documented(client):
    openapi = client.get("/openapi.json").json()
    for path in ("/generate", "/generate/batch"):
        responses = openapi["paths"][path]["post"]["responses"]
        statuses = ["200", "400", "413", "415", "422", "429", "500", "503", "504"]
        assert sorted(responses) == statuses
    for name in ("GenerateRequest", "GenerateBatchRequest"):
        for field, schema in openapi["components"]["schemas"][name]["properties"].items():
            assert schema.get("description"), (name, field)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_pages_need_no_other_host(client, path):
    page = client.get(path)
    assert page.status_code == 200
    assets = re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page.text)
    assert assets
    for asset in assets:
        assert asset.startswith("/"), asset
        assert client.get(asset).status_code == 200
