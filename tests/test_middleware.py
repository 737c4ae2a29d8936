"""Around every request: its id, and an answer when all else fails."""

import re

import pytest


def test_a_request_id_is_answered_back(client):
    response = client.get("/health", headers={"X-Request-ID": "my-id:1"})
    assert response.headers["x-request-id"] == "my-id:1"


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "a\tb", "<script>"])
def test_a_request_id_that_could_do_harm_is_replaced(client, bad):
    given = client.get("/health", headers={"X-Request-ID": bad}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", given)


def test_an_unforeseen_error_gives_500_with_an_id_and_no_more(start_client, tiny_model, capfd):
    client = start_client(model_name=str(tiny_model("gpt2")))
    client.app.state.metrics = None  # what no route expects
    response = client.get("/metrics")
    assert response.status_code == 500
    assert response.json() == {"detail": "Internal server error."}
    assert response.headers["x-request-id"] in capfd.readouterr().err
