"""Pings of silent streams: they come before the first token, and readers skip them."""

import httpx2
import pytest

from tests.support.chat_apis import CHAT_APIS, ChatApi
from tests.support.servers import LocalServer
from tests.support.wire import PLAIN_TEMPLATE, fail_after

PINGS = {
    "/v1/chat/completions": ": ping\n\n",
    "/v1/responses": ": ping\n\n",
    "/v1/messages": 'event: ping\ndata: {"type":"ping"}\n\n',
}


@pytest.fixture(params=CHAT_APIS, ids=str)
def api(request: pytest.FixtureRequest) -> ChatApi:
    return request.param


def read_held(api: ChatApi, server: LocalServer, num_pings: int = 2) -> tuple[int, str]:
    """Streams while the model is held; returns the status and the text without the first pings."""
    gate, ping = server.hold(), PINGS[api.path]
    body = api.body(server, max_tokens=3, stream=True)
    if api.path == "/v1/chat/completions":
        body["stream_options"] = {"include_usage": True}
    with httpx2.stream("POST", server.url + api.path, json=body, timeout=30) as response:
        pieces = response.iter_text()
        text = ""
        while text.count(ping) < num_pings:
            text += next(pieces)
        assert text == ping * text.count(ping)
        gate.open()
        text = "".join(pieces)
    return response.status_code, text.replace(ping, "")


def test_a_silent_stream_sends_pings_before_its_first_token(api, start_server):
    server = start_server(keep_alive_seconds=0.2, chat_template=PLAIN_TEMPLATE)
    status, text = read_held(api, server)
    assert status == 200
    assert api.read_stream(httpx2.Response(200, text=text)).num_output_tokens == 3


def test_a_failure_after_a_ping_is_the_last_event(api, start_server):
    server = start_server(keep_alive_seconds=0.2, chat_template=PLAIN_TEMPLATE)
    fail_after(server, 0)
    status, text = read_held(api, server)
    assert status == 200
    assert "error" in text
    assert "made to fail" not in text


def test_clients_skip_pings(api, start_server):
    server = start_server(keep_alive_seconds=0.001, chat_template=PLAIN_TEMPLATE)
    server.slow_down(0.02)
    api.create_by_client(server, api.body(server, max_tokens=5, stream=True))


def test_pings_can_be_turned_off(api, start_server):
    server = start_server(keep_alive_seconds=0, chat_template=PLAIN_TEMPLATE)
    gate = server.hold()
    body = api.body(server, max_tokens=3, stream=True)
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(server.url + api.path, json=body, timeout=0.5)
    gate.open()
