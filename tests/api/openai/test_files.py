"""`/v1/files`: uploads, lists, content and deletion, each for the key that stored the file."""

import socket
import time

import httpx2
import openai
import pytest

from src.main import create_app
from tests.conftest import create_settings
from tests.support.batches import connect, upload
from tests.support.keys import bearer, create_key
from tests.support.servers import LocalServer, serve_app

TEXT = b'{"a": 1}\n' * 1000


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two keys, and their file."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    return path, create_key(path, "first"), create_key(path, "second")


@pytest.fixture(scope="module")
def files_server(tiny_model, tmp_path_factory, keys):
    settings = create_settings(
        model_name=str(tiny_model()),
        batch_dir=tmp_path_factory.mktemp("files") / "batches",
        batch_max_file_bytes=100_000,
        batch_quota_bytes=250_000,
        auth="api_key",
        api_keys_file=keys[0],
    )
    with serve_app(create_app(settings)) as server:
        yield server


@pytest.fixture
def client(files_server, keys):
    """A client of the first key, without files."""
    client = connect(files_server.url, keys[1])
    yield client
    for file in client.files.list():
        client.files.delete(file.id)


def test_a_file_is_stored_as_it_was_sent(client):
    file = client.files.create(file=("näme.jsonl", TEXT), purpose="batch")
    assert (file.object, file.bytes, file.filename) == ("file", len(TEXT), "näme.jsonl")
    assert (file.purpose, file.status) == ("batch", "processed")
    assert file.expires_at == file.created_at + 30 * 24 * 3600
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == TEXT
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError) as refused:
        client.files.content(file.id)
    assert refused.value.body == {
        "message": f"There is no file {file.id}.",
        "type": "invalid_request_error",
        "param": "id",
        "code": "not_found",
    }


def test_the_lifetime_is_that_of_the_request(client):
    expiry = {"anchor": "created_at", "seconds": 3600}
    file = client.files.create(file=("a", b"x"), purpose="batch", expires_after=expiry)
    assert file.expires_at == file.created_at + 3600
    assert client.files.create(file=("a", b"x"), purpose="fine-tune").expires_at is None


def test_lists_come_in_pages(client):
    ids = [upload(client, b"x", purpose) for purpose in ["batch", "fine-tune"] * 2]
    assert [file.id for file in client.files.list(limit=3)] == ids[::-1]
    assert [file.id for file in client.files.list(limit=3, order="asc")] == ids
    assert [file.id for file in client.files.list(purpose="fine-tune")] == ids[3::-2]
    page = client.files.list(limit=2)
    assert page.has_more
    assert [file.id for file in page.data] == ids[:1:-1]
    with pytest.raises(openai.NotFoundError, match="no file file-x"):
        client.files.list(after="file-x")


def test_a_key_sees_its_own_files_alone(client, files_server, keys):
    file_id = upload(client, TEXT)
    other = connect(files_server.url, keys[2])
    assert list(other.files.list()) == []
    for ask in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(file_id)
    with pytest.raises(openai.BadRequestError, match="There is no file"):
        other.batches.create(
            input_file_id=file_id, endpoint="/v1/completions", completion_window="24h"
        )
    assert client.files.retrieve(file_id).id == file_id


def test_a_file_beyond_a_quota_is_refused_and_leaves_nothing(client, files_server):
    folder = files_server.service.settings.batch_dir
    with pytest.raises(openai.APIStatusError, match="BATCH_MAX_FILE_BYTES") as refused:
        upload(client, b"x" * 100_001)
    assert refused.value.status_code == 413
    assert refused.value.body["code"] == "storage_quota_exceeded"
    ids = [upload(client, b"x" * 100_000) for _ in range(2)]
    with pytest.raises(openai.APIStatusError, match="BATCH_QUOTA_BYTES"):
        upload(client, b"x" * 100_000)
    client.files.delete(ids[0])
    upload(client, b"x" * 100_000)
    assert list((folder / "uploads").iterdir()) == []


def send(server: LocalServer, key: str, body: bytes, content_type: str) -> httpx2.Response:
    headers = bearer(key) | {"Content-Type": content_type}
    return httpx2.post(server.url + "/v1/files", content=body, headers=headers)


def form(*parts: str) -> bytes:
    return "".join(f"--b\r\nContent-Disposition: form-data; {part}\r\n" for part in parts).encode()


FILE, PURPOSE, END = (
    'name="file"; filename="a"\r\n\r\nx',
    'name="purpose"\r\n\r\nbatch',
    b"--b--\r\n",
)
MULTIPART = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"{}", "application/json", "The body must be a form"),
        (b"x", "multipart/form-data", "The body must be a form"),
        (b"nonsense", MULTIPART, "malformed or incomplete"),
        (form(PURPOSE, FILE), MULTIPART, "malformed or incomplete"),
        (form(PURPOSE) + END, MULTIPART, "The form has no file"),
        (form(FILE) + END, MULTIPART, "The purpose must be batch or fine-tune"),
        (form(FILE, 'name="purpose"\r\n\r\nvision') + END, MULTIPART, "The purpose must be"),
        (form(FILE, FILE) + END, MULTIPART, "more than one file"),
        (form('name="colour"\r\n\r\nred', FILE) + END, MULTIPART, "There is no such field"),
        (form(f'name="purpose"\r\n\r\n{"x" * 5000}') + END, MULTIPART, "too long"),
        (
            form(FILE, PURPOSE, 'name="expires_after[seconds]"\r\n\r\n9') + END,
            MULTIPART,
            "created_at",
        ),
    ],
)
def test_a_form_that_is_none_is_refused(files_server, keys, body, content_type, message):
    response = send(files_server, keys[1], body, content_type)
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]["message"]
    assert list((files_server.service.settings.batch_dir / "uploads").iterdir()) == []


def test_the_file_may_come_before_its_purpose(files_server, keys):
    assert send(files_server, keys[1], form(FILE, PURPOSE) + END, MULTIPART).status_code == 200


def test_a_folder_that_cannot_be_made_refuses_files_alone(start_server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    server = start_server(batch_dir=tmp_path / "file" / "batches")
    with pytest.raises(openai.InternalServerError, match="BATCH_DIR cannot be used") as refused:
        upload(connect(server.url), b"x")
    assert (refused.value.status_code, refused.value.code) == (503, "storage_unavailable")
    assert server.post({"prompt": "a", "max_length": 2}).status_code == 200


def send_slowly(server: LocalServer, pieces: list[bytes], length: int) -> bytes:
    """Sends a form's pieces with pauses, and returns the answer."""
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Type: {MULTIPART}\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(head.encode())
        for piece in pieces:
            time.sleep(0.6)
            connection.sendall(piece)
        answer = b""
        while data := connection.recv(2**16):
            answer += data
    return answer


def test_an_upload_may_take_long_while_it_goes_on(start_server, tmp_path):
    server = start_server(batch_dir=tmp_path / "batches", receive_timeout_seconds=1)
    body = form(FILE, PURPOSE) + END
    pieces = [body[:50], body[50:60], body[60:70], body[70:]]
    assert send_slowly(server, pieces, len(body)).startswith(b"HTTP/1.1 200 ")
    assert send_slowly(server, pieces[:2], len(body)).startswith(b"HTTP/1.1 408 ")
