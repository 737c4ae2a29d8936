"""`/v1/batches`, driven by OpenAI's client over HTTP on the bundled model."""

import errno
import json
import time
from pathlib import Path

import httpx2
import openai
import pytest

from src.errors import StorageFullError
from src.jobs import batch_run
from src.jobs.worklist import Worklist
from src.main import create_app
from tests.conftest import create_settings, wait_until
from tests.support.batches import (
    CHATS,
    as_text,
    chat_line,
    connect,
    ids_of,
    read_file,
    start,
    upload,
    wait_for,
)
from tests.support.servers import serve_app


@pytest.fixture(scope="module")
def batch_server(tmp_path_factory):
    """A server on the bundled model with a folder of its own."""
    settings = create_settings(
        batch_dir=tmp_path_factory.mktemp("batches") / "batches",
        batch_max_lines=50_000,
        max_body_bytes=2**20,
        usage_log=tmp_path_factory.mktemp("usage") / "usage.jsonl",
    )
    with serve_app(create_app(settings)) as server:
        yield server


@pytest.fixture(scope="module")
def client(batch_server):
    return connect(batch_server.url)


def test_the_documented_example_runs(client, tmp_path):
    """Follows OpenAI's guide, with this server's model."""
    path = tmp_path / "batchinput.jsonl"
    path.write_bytes(as_text(chat_line(f"request-{number}") for number in range(1, 31)))
    with path.open("rb") as file:
        batch_input_file = client.files.create(file=file, purpose="batch")
    batch = client.batches.create(
        input_file_id=batch_input_file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"description": "nightly eval job"},
    )
    assert batch.status == "validating"
    batch = wait_for(client, batch)
    assert (batch.status, batch.model, batch.errors) == ("completed", "storyteller", None)
    assert batch.metadata == {"description": "nightly eval job"}
    assert batch.expires_at == batch.created_at + 24 * 3600
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert (batch.request_counts.completed, batch.request_counts.failed) == (30, 0)
    assert batch.error_file_id is None
    lines = [json.loads(line) for line in client.files.content(batch.output_file_id).iter_lines()]
    assert ids_of(lines) == [f"request-{number}" for number in range(1, 31)]
    for line in lines:
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        message = line["response"]["body"]["choices"][0]["message"]
        assert message["content"] == "The capital of France is Paris."
    usages = [line["response"]["body"]["usage"] for line in lines]
    assert batch.usage.input_tokens == sum(usage["prompt_tokens"] for usage in usages)
    assert batch.usage.output_tokens == sum(usage["completion_tokens"] for usage in usages)
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    assert next(iter(client.batches.list(limit=1))).id == batch.id


BODIES = {
    "/v1/completions": {"model": "storyteller", "prompt": "Once", "max_tokens": 4},
    "/v1/responses": {"model": "storyteller", "input": "Hello", "max_output_tokens": 4},
    "/v1/embeddings": {"model": "storyteller", "input": "Hello"},
}


@pytest.mark.parametrize("endpoint", BODIES)
def test_each_route_answers_lines(client, endpoint):
    line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": BODIES[endpoint]}
    batch = wait_for(client, start(client, as_text([line]), endpoint))
    (answer,) = read_file(client, batch.output_file_id)
    usage = answer["response"]["body"]["usage"]
    assert batch.usage.total_tokens == usage["total_tokens"] > 0


def test_a_refused_line_goes_to_the_error_file(client):
    lines = [chat_line("good"), chat_line("bad", max_tokens=0), chat_line("worse", colour="red")]
    batch = wait_for(client, start(client, as_text(lines)))
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
    assert ids_of(read_file(client, batch.output_file_id)) == ["good"]
    bad, worse = read_file(client, batch.error_file_id)
    assert bad["response"]["status_code"] == 400
    assert bad["response"]["body"]["error"]["param"] == "max_tokens"
    assert worse["response"]["body"]["error"]["code"] == "unknown_parameter"


def lines_with(*changes: dict[str, object]) -> bytes:
    return as_text([chat_line(0), *({**chat_line(1), **change} for change in changes)])


def body(**fields: object) -> dict[str, object]:
    return {"body": chat_line(1)["body"] | fields}


LONG = [{"role": "user", "content": "x" * 10_000_000}]
BAD_FILES = {
    "broken": (as_text([chat_line(0)]) + b'{"custom_id": \n', "invalid_json_line", 2, None),
    "no object": (as_text([chat_line(0)]) + b"[1]\n", "invalid_json_line", 2, None),
    "not utf-8": (as_text([chat_line(0)]) + b'"\xff"\n', "invalid_json_line", 2, None),
    "deep": (as_text([chat_line(0)]) + b"[" * 100_000 + b"\n", "invalid_json_line", 2, None),
    "empty": (b"", "empty_file", None, None),
    "blank": (b"\n \r\n\n", "empty_file", None, None),
    "duplicate": (as_text([chat_line(0), chat_line(0)]), "duplicate_custom_id", 2, "custom_id"),
    "no id": (lines_with({"custom_id": None}), "missing_required_parameter", 2, "custom_id"),
    "other id": (lines_with({"custom_id": 7}), "invalid_value", 2, "custom_id"),
    "surrogate": (lines_with({"custom_id": "\ud800"}), "invalid_value", 2, "custom_id"),
    "endpoints": (lines_with({"url": "/v1/embeddings"}), "url_mismatch", 2, "url"),
    "method": (lines_with({"method": "GET"}), "invalid_method", 2, "method"),
    "field": (lines_with({"colour": "red"}), "unknown_parameter", 2, "colour"),
    "no body": (lines_with({"body": None}), "missing_required_parameter", 2, "body"),
    "no model": (lines_with(body(model=None)), "missing_required_parameter", 2, "body.model"),
    "model": (lines_with(body(model="gpt-5")), "model_not_found", 2, "body.model"),
    "stream": (lines_with(body(stream=True)), "unsupported_parameter", 2, "body.stream"),
    "background": (
        lines_with(body(background=True)),
        "unsupported_parameter",
        2,
        "body.background",
    ),
    "utf-16": (as_text([chat_line(0)]).decode().encode("utf-16"), "invalid_json_line", 1, None),
    "10 MB": (lines_with(body(messages=LONG), {"custom_id": None}), "request_too_large", 2, None),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_line_fails_the_batch_before_any_runs(client, batch_server, name):
    data, code, line, param = BAD_FILES[name]
    started = batch_server.sample("inference_sequences_started_total")
    batch = wait_for(client, start(client, data))
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    error = batch.errors.data[0]
    assert (error.code, error.line, error.param) == (code, line, param)
    assert error.message
    assert batch.failed_at is not None
    assert batch_server.sample("inference_sequences_started_total") == started


def test_a_broken_line_is_found_far_into_the_file(client):
    lines = [json.dumps(chat_line(number)).encode() for number in range(50_001)]
    lines[39_999] = lines[39_999][:-1]
    batch = wait_for(client, start(client, b"\n".join(lines)))
    codes = [(error.code, error.line) for error in batch.errors.data]
    assert codes == [("too_many_tasks", None), ("invalid_json_line", 40_000)]


def test_text_that_is_not_ascii_does_not_grow_on_its_way(client):
    text = "\u0436" * 400_000  # 800 kB, of 1 MiB that a line may have; escaped it is larger
    line = chat_line("long", messages=[{"role": "user", "content": text}])
    batch = start(client, json.dumps(line, ensure_ascii=False).encode())
    (failed,) = read_file(client, wait_for(client, batch).error_file_id)
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["code"] == "context_length_exceeded"


def test_a_wall_clock_that_is_set_expires_nothing_and_repeats_nothing(client, monkeypatch):
    batch = wait_for(client, start(client, slow_lines(40), completion_window="1h"), "in_progress")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 2 * 86400)
    wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed > 0)
    monkeypatch.setattr(time, "time", lambda: real() - 2 * 86400)
    batch = wait_for(client, batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 40)
    assert batch.created_at <= batch.in_progress_at <= batch.completed_at < batch.expires_at
    lines = read_file(client, batch.output_file_id)
    assert ids_of(lines) == [str(number) for number in range(40)]


def test_marks_line_ends_and_blank_lines_do_not_matter(client):
    lines = [json.dumps(chat_line(number)).encode() for number in range(4)]
    data = (
        b"\xef\xbb\xbf"
        + lines[0]
        + b"\r\n\r\n"
        + lines[1]
        + b"\n \n"
        + lines[2]
        + b"\r\n"
        + lines[3]
    )
    batch = wait_for(client, start(client, data))
    assert ids_of(read_file(client, batch.output_file_id)) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"input_file_id": "file-x"}, "input_file_id"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, None),
        ({"extra_body": {"colour": "red"}}, "colour"),
    ],
)
def test_a_bad_request_is_refused(client, change, param):
    good = {"input_file_id": upload(client, b"x"), "endpoint": CHATS, "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(**(good | change))
    assert param is None or refused.value.param == param


def test_a_file_of_another_purpose_is_refused(client):
    with pytest.raises(openai.BadRequestError, match="purpose fine-tune") as refused:
        client.batches.create(
            input_file_id=upload(client, b"x", "fine-tune"),
            endpoint=CHATS,
            completion_window="24h",
        )
    assert refused.value.param == "input_file_id"


def slow_lines(count: int) -> bytes:
    """Lines that take their time."""
    text = [{"role": "user", "content": "Tell me a story."}]
    fields = {"messages": text, "max_tokens": 400, "ignore_eos": True, "temperature": 1}
    return as_text(chat_line(number, **fields) for number in range(count))


def test_a_cancelled_batch_keeps_its_answers(client):
    batch = start(client, slow_lines(500))
    wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed > 0)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = wait_for(client, batch)
    assert batch.status == "cancelled"
    assert batch.cancelling_at <= batch.cancelled_at
    answers, errors = (
        read_file(client, one) for one in (batch.output_file_id, batch.error_file_id)
    )
    assert len(answers) == batch.request_counts.completed > 0
    assert len(errors) == batch.request_counts.failed > 0
    assert {*ids_of(answers), *ids_of(errors)} == {str(number) for number in range(500)}
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    with pytest.raises(openai.ConflictError, match="status cancelled cannot be cancelled"):
        client.batches.cancel(batch.id)


def test_an_expired_batch_keeps_its_answers(client):
    batch = wait_for(client, start(client, slow_lines(500), completion_window="2s"))
    assert batch.status == "expired"
    answers, errors = (
        read_file(client, one) for one in (batch.output_file_id, batch.error_file_id)
    )
    assert len(answers) + len(errors) == 500
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}


def test_a_deleted_input_file_is_still_read(client):
    batch = wait_for(client, start(client, slow_lines(20)), "in_progress")
    client.files.delete(batch.input_file_id)
    batch = wait_for(client, batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 20)


def test_content_that_is_removed_from_the_disk_fails_the_batch(client, batch_server):
    batch = wait_for(client, start(client, slow_lines(300)), "in_progress")
    wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed > 0)
    folder = batch_server.service.settings.batch_dir
    (folder / "batches" / batch.id / "input.jsonl").unlink()
    batch = wait_for(client, batch)
    assert (batch.status, batch.errors.data[0].code) == ("failed", "input_file_not_found")
    answers, errors = (
        read_file(client, one) for one in (batch.output_file_id, batch.error_file_id)
    )
    assert len(answers) == batch.request_counts.completed > 0
    assert len(answers) + len(errors) == 300
    assert {line["error"]["code"] for line in errors} == {"batch_failed"}


def test_a_full_disk_refuses_an_upload(client, batch_server, monkeypatch):
    folder = batch_server.service.settings.batch_dir
    client.files.list()  # the folder is there
    real_open = Path.open

    def open_unless_full(path: Path, mode: str = "r", *options: object) -> object:
        if path.parent == folder / "uploads":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_open(path, mode, *options)

    monkeypatch.setattr(Path, "open", open_unless_full)
    with pytest.raises(openai.InternalServerError, match="disk for files is full") as refused:
        upload(client, b"x")
    assert (refused.value.status_code, refused.value.code) == (507, "insufficient_storage")
    assert list((folder / "uploads").iterdir()) == []


def test_a_disk_that_is_full_for_a_while_loses_no_line(client, monkeypatch):
    num_refused = 0
    save = Worklist.save

    async def save_later(worklist: Worklist, *arguments: object) -> bool:
        nonlocal num_refused
        if num_refused < 3:
            num_refused += 1
            raise StorageFullError
        return await save(worklist, *arguments)

    monkeypatch.setattr(batch_run, "POSTPONE_SECONDS", 0.1)
    monkeypatch.setattr(Worklist, "save", save_later)
    batch = wait_for(client, start(client, as_text(chat_line(number) for number in range(50))))
    assert num_refused == 3
    assert (batch.status, batch.request_counts.completed) == ("completed", 50)
    lines = read_file(client, batch.output_file_id)
    assert ids_of(lines) == [str(number) for number in range(50)]


def test_lines_are_billed_as_requests_are(client, batch_server):
    log = batch_server.service.settings.usage_log
    batch = wait_for(client, start(client, as_text([chat_line("billed")])))
    (answer,) = read_file(client, batch.output_file_id)

    def logged() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if line["request_id"] == answer["response"]["request_id"]]

    wait_until(logged)
    (line,) = logged()
    assert line["endpoint"] == CHATS
    assert line["prompt_tokens"] == batch.usage.input_tokens
    assert line["generated_tokens"] == batch.usage.output_tokens


def test_an_unknown_method_names_all_known_ones(batch_server):
    response = httpx2.put(batch_server.url + "/v1/files")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, POST")


def test_batches_come_in_pages(client):
    ids = [start(client, as_text([chat_line(0)])).id for _ in range(3)]
    assert [one.id for one in client.batches.list(limit=2).data] == ids[:0:-1]
    page = client.batches.list(limit=2, after=ids[1])
    assert page.data[0].id == ids[0]
