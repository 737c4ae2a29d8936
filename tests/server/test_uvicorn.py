"""uvicorn has the undocumented names that src/server uses; the docstring there lists them."""

import asyncio
import inspect

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from src.server.connection import Connection
from src.server.graceful import Server
from src.server.supervisor import Supervisor
from src.server.worker import Worker

OVERRIDDEN = {
    Server: "handle_exit shutdown",
    Supervisor: "init_processes handle_int handle_term handle_hup handle_ttin handle_ttou"
    " keep_subprocess_alive terminate_all join_all",
    Worker: "start ping is_ready server target pong",
    Connection: "connection_made connection_lost data_received on_message_begin on_url on_header"
    " on_headers_complete on_message_complete send_400_response on_response_complete pause_writing",
}


@pytest.mark.parametrize(
    ("subclass", "name"),
    [(subclass, name) for subclass, names in OVERRIDDEN.items() for name in names.split()],
)
def test_an_overridden_method_exists_in_its_base_class(subclass, name):
    (base,) = subclass.__bases__
    assert name in vars(subclass)
    assert hasattr(base, name)


def test_a_server_has_the_attributes_that_a_graceful_shutdown_uses():
    server = uvicorn.Server(uvicorn.Config("", log_config=None))
    assert (server.started, server.should_exit, server.force_exit) == (False, False, False)
    assert server.server_state.connections == set()
    assert server.server_state.default_headers == []


def test_a_protocol_has_the_attributes_that_a_connection_uses():
    async def create() -> HttpToolsProtocol:
        config = uvicorn.Config(lambda: None, log_config=None, ws="none")
        return HttpToolsProtocol(config, ServerState(), {}, asyncio.get_running_loop())

    protocol = asyncio.run(create())
    protocol.on_message_begin()
    assert {"parser", "client", "url", "headers", "scope", "cycle", "loop"} <= vars(protocol).keys()


def test_a_cycle_has_the_attributes_that_answers_to_http_1_0_use():
    arguments = dict.fromkeys(inspect.signature(RequestResponseCycle).parameters)
    cycle = RequestResponseCycle(**arguments)
    assert cycle.response_started is False
    assert cycle.chunked_encoding is None
    assert cycle.expected_content_length == 0
    assert callable(cycle.send)
