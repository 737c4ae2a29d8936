"""The native API, over the real app and model."""

import re

import pytest
from fastapi.testclient import TestClient

from src.main import create_app
from tests.conftest import create_settings, wait_until


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
    assert "context of 1024 tokens" in message


def test_a_request_that_does_not_fit_is_refused_with_field_limit_and_remedy(client):
    ((loc, message),) = problems(post(client, prompt="Once", max_length=5000))
    assert loc == ["body", "max_length"]
    assert "5000 new tokens" in message
    assert "context of 1024 tokens" in message
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
        (b'{"prompt": "\\ud800"}', 422, "unicode"),
        (b'{"\\ud800": 1, "prompt": "a"}', 422, "unicode"),
        (b'{"prompt": "a", "temperature": NaN}', 422, "finite number"),
        (b'{"prompt": "a", "temperature": 1e999}', 422, "finite number"),
        (b'{"prompt": "\xff"}', 400, "cannot be parsed"),
        (b"[" * 20_000, 400, "cannot be parsed"),
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
    client = start_client(model_name=str(tiny_model("gpt2")), timeout_seconds=0.001)
    response = post(client, prompt="the cat", max_length=100)
    assert response.status_code == 504
    assert "fewer tokens" in response.json()["detail"]
    wait_until(lambda: client.app.state.engine.num_live == 0)


def test_a_failing_model_gives_500_without_its_reason(start_client, tiny_model, capfd):
    client = start_client(model_name=str(tiny_model("gpt2")))

    def fail(*args: object, **kwargs: object) -> object:
        raise RuntimeError("made to fail")

    client.app.state.engine._loaded.model.forward = fail
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


def test_when_the_engine_is_dead(start_client, tiny_model):
    client = start_client(model_name=str(tiny_model("gpt2")))

    def die(*args: object, **kwargs: object) -> object:
        raise SystemExit("made to die")

    client.app.state.engine._loaded.model.forward = die
    assert post(client, prompt="the").status_code == 503
    for path in ("/health", "/health/live", "/health/ready"):
        response = client.get(path)
        assert response.status_code == 503
        assert response.json()["status"] == "unhealthy"


def test_every_documented_example_works_as_it_stands(client):
    openapi = client.get("/openapi.json").json()
    tried = 0
    for path, operations in openapi["paths"].items():
        if "post" not in operations:
            continue
        schema = operations["post"]["requestBody"]["content"]["application/json"]["schema"]
        name = schema["$ref"].rpartition("/")[2]
        for example in openapi["components"]["schemas"][name]["examples"]:
            response = client.post(path, json=example)
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
