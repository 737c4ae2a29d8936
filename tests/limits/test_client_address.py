"""Rate-limit keys of addresses: all addresses of a client count as one."""

import socket
from contextlib import contextmanager

import pytest

from src.limits.client_address import plain_address
from tests.conftest import wait_until
from tests.support.keys import bearer, create_key
from tests.support.servers import Server, serve

BODY = {"prompt": "the", "max_length": 1}
PROXY = {"forwarded_allow_ips": "127.0.0.1"}  # the X-Forwarded-For of these tests counts
SAME = [
    ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:DB8::1:0:0:0:7"),
    ("10.0.0.1", "::ffff:10.0.0.1", "::FFFF:a00:1"),
]
OTHERS = ["2001:db8:0:2::1", "10.0.0.2", "::ffff:10.0.0.3"]


def ask(server: Server, address: str, **headers: str) -> int:
    return server.post(BODY, headers={"X-Forwarded-For": address} | headers).status_code


@contextmanager
def unfinished(server: Server, address: str):
    """Keeps a request without its body open, from this address."""
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode())
        yield


@pytest.mark.parametrize("same", SAME, ids=["IPv6", "IPv4"])
def test_all_addresses_of_a_client_share_its_requests(tmp_path, tiny_model, same):
    with serve(tmp_path, model_name=tiny_model(), rate_limit_requests=2, **PROXY) as server:
        server.wait_until("/health/ready")
        assert [ask(server, address) for address in same] == [200, 200, 429]
        assert [ask(server, address) for address in OTHERS] == [200] * 3


def test_all_addresses_of_a_client_share_its_running_requests(tmp_path, tiny_model):
    with serve(tmp_path, model_name=tiny_model(), rate_limit_concurrent=1, **PROXY) as server:
        server.wait_until("/health/ready")
        for first, *others in SAME:
            with unfinished(server, first):
                for address in others:
                    wait_until(lambda address=address: ask(server, address) == 429)
                assert [ask(server, address) for address in OTHERS] == [200] * 3


def test_wrong_keys_are_counted_for_all_addresses_of_a_client(tmp_path, tiny_model):
    file = tmp_path / "keys.json"
    key = create_key(file, "one")
    settings = {"auth": "api_key", "api_keys_file": file, "rate_limit_address_requests": 2}
    with serve(tmp_path, model_name=tiny_model(), **settings, **PROXY) as server:
        server.wait_until("/health/ready")
        wrong = bearer("llmk_000000000000_x")
        for same in SAME:
            assert [ask(server, address, **wrong) for address in same] == [401, 401, 429]
            assert ask(server, same[0], **bearer(key)) == 429
        assert [ask(server, address, **bearer(key)) for address in OTHERS] == [200] * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:c000:201", "::ffff:c000:201"),
    ],
)
def test_ipv4_mapped_addresses_are_shown_as_ipv4(text, expected):
    assert plain_address(text) == expected
