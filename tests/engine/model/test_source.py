"""MODEL_NAME finds its model: bundled, in a folder, or on a hub.

`huggingface_hub` downloads from a local server that stands in for the hub.
"""

import shutil
import socket
import time
from pathlib import Path

import pytest

from src.engine.config import EngineConfig
from src.engine.model import source as model_source
from src.engine.model.loader import load_model
from src.engine.model.source import BUNDLED_FOLDER, find_model_path
from src.errors import ModelLoadError
from tests.support.hub import TOKEN, run_hub, use_hub
from tests.support.tiny_models import create_model_folder

WEIGHTS = "model.safetensors"


@pytest.fixture
def hub():
    """Starts a local hub and directs this process to it."""
    with run_hub() as hub, use_hub(hub.url):
        yield hub


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Creates a model's repository, with files of other kinds that are common there."""
    folder = create_model_folder(tmp_path_factory.mktemp("repository"))
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "modeling_own.py").write_text("raise SystemExit('ran foreign code')")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    (folder / "onnx" / WEIGHTS).write_bytes(b"another form")
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def create_config(model_name, cache: Path = Path("models"), **values) -> EngineConfig:
    return EngineConfig(model_name=str(model_name), model_cache_dir=cache, **values)


def refusal(model_name, cache: Path = Path("models"), **values) -> str:
    """Returns why the model is not found, in one paragraph with a remedy."""
    with pytest.raises(ModelLoadError) as caught:
        find_model_path(create_config(model_name, cache, **values))
    message = str(caught.value)
    assert "\n" not in message
    assert f"MODEL_NAME={model_name}" in message
    assert message.endswith(
        "MODEL_NAME=storyteller runs the bundled model, which needs no download."
    )
    return message


def unused_url() -> str:
    """Returns a URL of a port without a server."""
    with run_hub() as hub:
        return hub.url


def test_storyteller_is_the_bundled_model_in_any_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("storyteller").mkdir()
    assert find_model_path(create_config("storyteller")) == BUNDLED_FOLDER
    assert (BUNDLED_FOLDER / WEIGHTS).is_file()


@pytest.mark.parametrize("name", ["{}", "./model", "model", "~/model"])
def test_a_folder_is_used_as_it_is(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "model"
    folder.mkdir()
    assert find_model_path(create_config(name.format(folder))).resolve() == folder


def test_downloads_a_model_that_then_loads(hub, repository, cache):
    hub.add("org/model", repository)
    config = create_config("org/model", cache)
    folder = find_model_path(config)
    assert cache in folder.parents
    assert (folder / WEIGHTS).read_bytes() == (repository / WEIGHTS).read_bytes()
    num_requests = len(hub.requests)
    assert load_model(create_config(folder)).max_model_len == 128
    assert len(hub.requests) == num_requests  # all files are in the folder


def test_an_id_without_an_organisation_is_downloaded_too(hub, repository, cache):
    hub.add("gpt2", repository)
    assert (find_model_path(create_config("gpt2", cache)) / WEIGHTS).is_file()


@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_downloads_no_pickled_weights_no_nested_files_and_code_only_if_trusted(
    hub, repository, cache, trust_remote_code
):
    hub.add("org/model", repository)
    config = create_config("org/model", cache, trust_remote_code=trust_remote_code)
    folder = find_model_path(config)
    expected = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    expected |= {WEIGHTS} | ({"modeling_own.py"} if trust_remote_code else set())
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == expected
    assert hub.downloads() == expected


def test_a_second_start_downloads_nothing(hub, repository, cache):
    hub.add("org/model", repository)
    first = find_model_path(create_config("org/model", cache))
    hub.requests.clear()
    assert find_model_path(create_config("org/model", cache)) == first
    assert hub.downloads() == set()


def test_the_revision_after_the_at_sign_is_downloaded(hub, repository, cache, tmp_path):
    other = create_model_folder(tmp_path / "other", seed=1)
    hub.add("org/model", repository)
    hub.add("org/model", other, revision="refs/pr/1")
    main = find_model_path(create_config("org/model", cache))
    revised = find_model_path(create_config("org/model@refs/pr/1", cache))
    assert (main / WEIGHTS).read_bytes() == (repository / WEIGHTS).read_bytes()
    assert (revised / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()
    by_commit = find_model_path(create_config(f"org/model@{revised.name}", cache))
    assert by_commit == revised


def test_a_gated_model_comes_with_the_token_that_opens_it(hub, repository, cache):
    hub.add("org/model", repository, is_gated=True)
    with use_hub(hub.url, token=TOKEN):
        assert (find_model_path(create_config("org/model", cache)) / WEIGHTS).is_file()


# Failures of the hub.


@pytest.mark.parametrize("outage", ["gone", "offline", "overloaded", "a web page", "deleted"])
def test_a_model_in_the_cache_is_used_when_the_hub_fails(
    hub, repository, cache, monkeypatch, outage
):
    hub.add("org/model", repository)
    config = create_config("org/model", cache)
    folder = find_model_path(config)
    if outage == "gone":
        with use_hub(unused_url()):
            assert find_model_path(config) == folder
        return
    if outage == "offline":
        monkeypatch.setattr(model_source.constants, "HF_HUB_OFFLINE", True)
    elif outage == "overloaded":
        hub.status = 503
    elif outage == "a web page":
        hub.status, hub.body = 200, b"<html>Please log in to this network</html>"
    else:
        hub.repositories.clear()
    assert find_model_path(config) == folder


def test_a_proxy_that_refuses_is_an_outage_too(hub, repository, cache, monkeypatch):
    hub.add("org/model", repository)
    folder = find_model_path(create_config("org/model", cache))
    monkeypatch.setenv("HTTPS_PROXY", hub.url)  # it does not support CONNECT
    with use_hub("https://hub.invalid"):
        assert find_model_path(create_config("org/model", cache)) == folder
        assert "ProxyError" in refusal("org/other", cache)


def test_without_hub_and_cached_copy_the_start_fails_at_once(cache):
    url = unused_url()
    start = time.monotonic()
    with use_hub(url):
        message = refusal("org/model@v2", cache)
    assert time.monotonic() - start < 5
    assert f"({cache}) holds no complete copy" in message
    assert url in message
    assert "Connection refused" in message
    assert "HF_ENDPOINT" in message


def test_a_hub_that_does_not_answer_times_out(monkeypatch, cache):
    monkeypatch.setattr(model_source, "HUB_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with use_hub(f"http://127.0.0.1:{silent.getsockname()[1]}"):
            assert "timed out" in refusal("org/model", cache)
        assert time.monotonic() - start < 5


def test_offline_mode_names_the_variable_that_forbids_the_download(hub, cache, monkeypatch):
    monkeypatch.setattr(model_source.constants, "HF_HUB_OFFLINE", True)
    message = refusal("org/model", cache)
    assert "HF_HUB_OFFLINE forbids a download" in message
    assert str(cache) in message
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "body"), [(503, b""), (429, b""), (404, b""), (200, b"<html></html>")]
)
def test_an_invalid_answer_is_a_failed_download(hub, cache, status, body):
    hub.status, hub.body = status, body
    assert "failed" in refusal("org/model", cache)


def test_an_interrupted_download_is_refused_until_it_is_completed(hub, repository, cache):
    hub.add("org/model", repository)
    hub.broken_file = WEIGHTS
    assert "500 Internal Server Error" in refusal("org/model", cache)
    assert list(cache.rglob("snapshots/*/config.json"))  # the download had begun
    with use_hub(unused_url()):
        assert "no complete copy" in refusal("org/model", cache)
    hub.broken_file = None
    folder = find_model_path(create_config("org/model", cache))
    assert (folder / WEIGHTS).read_bytes() == (repository / WEIGHTS).read_bytes()


def test_a_cache_that_cannot_be_written_is_named(hub, repository, cache):
    hub.add("org/model", repository)
    cache.write_text("a file, where a folder should be")
    message = refusal("org/model", cache)
    assert f"MODEL_CACHE_DIR ({cache}) can be written" in message


# Models that do not exist.


@pytest.mark.parametrize("token", [None, "hf_someone"])
def test_an_unknown_repository_is_refused(hub, cache, token):
    with use_hub(hub.url, token=token):
        message = refusal("models/nope", cache)
    assert "no such folder here" in message
    assert f"({hub.url}) has no model models/nope" in message
    assert "HF_TOKEN" in message


def test_an_unknown_revision_is_refused(hub, repository, cache):
    hub.add("org/model", repository)
    message = refusal("org/model@v9", cache)
    assert "has org/model, but no revision v9" in message
    assert "follows the @" in message


@pytest.mark.parametrize("token", [None, "hf_someone"])
def test_the_refusal_of_a_gated_repository_says_how_to_get_access(hub, repository, cache, token):
    hub.add("org/model", repository, is_gated=True)
    with use_hub(hub.url, token=token):
        message = refusal("org/model", cache)
    assert "accepted its terms" in message
    assert "HF_TOKEN" in message


@pytest.mark.parametrize(
    "name",
    [
        "./nope",
        "../nope",
        "/nope",
        "~/nope",
        "a/b/c",
        "no such model",
        "gpt2@",
        "org/model@v 1",
        "https://example.com/org/model",
        "what--ever",
        "a..b",
        "-x",
        "model.git",
    ],
)
def test_a_name_that_is_neither_a_folder_nor_a_hub_id_asks_no_hub(hub, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    message = refusal(name)
    assert f"there is no folder {Path(name).expanduser().absolute()}" in message
    assert "org/model@revision" in message
    assert hub.requests == []


def test_a_file_is_refused(tmp_path):
    shutil.copy(BUNDLED_FOLDER / "config.json", tmp_path)
    assert "is a file, and no GGUF file" in refusal(tmp_path / "config.json")


@pytest.mark.parametrize("name", ["~nobody-of-this-name/model", "x" * 300])
def test_a_name_that_no_file_system_allows_is_refused(name):
    assert "cannot be opened" in refusal(name)


# GGUF files.


def test_a_gguf_file_is_used_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.Q4_0.gguf").write_bytes(b"GGUF")
    for name in (tmp_path / "model.Q4_0.gguf", "model.Q4_0.gguf", "./model.Q4_0.gguf"):
        assert find_model_path(create_config(name)).resolve() == tmp_path / "model.Q4_0.gguf"


@pytest.mark.parametrize(
    "files", [["model.gguf"], ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]]
)
def test_the_only_gguf_model_of_a_folder_is_used(tmp_path, files):
    for file in (*files, "README.md"):
        (tmp_path / file).touch()
    assert find_model_path(create_config(tmp_path)) == tmp_path / files[0]


def test_a_config_comes_before_gguf_files(tmp_path):
    for file in ("config.json", "a.gguf", "b.gguf"):
        (tmp_path / file).touch()
    assert find_model_path(create_config(tmp_path)) == tmp_path


def test_several_gguf_files_are_refused_with_their_names(tmp_path):
    for file in ("b.Q8_0.gguf", "a.Q4_0.gguf"):
        (tmp_path / file).touch()
    message = refusal(tmp_path)
    assert "holds 2 GGUF files: a.Q4_0.gguf, b.Q8_0.gguf." in message
    assert f"MODEL_NAME={tmp_path}/a.Q4_0.gguf" in message


@pytest.fixture
def gguf_repository(tmp_path) -> Path:
    """Creates a repository of GGUF files alone, as is common on the hub."""
    folder = tmp_path / "gguf-repository"
    (folder / "Q8_0").mkdir(parents=True)
    for file in ("model.Q4_0.gguf", "README.md", "Q8_0/model-00001-of-00002.gguf"):
        (folder / file).write_bytes(file.encode())
    (folder / "Q8_0" / "model-00002-of-00002.gguf").write_bytes(b"second")
    return folder


def test_a_gguf_file_is_downloaded_alone(hub, gguf_repository, cache):
    hub.add("org/model-GGUF", gguf_repository)
    config = create_config("org/model-GGUF:model.Q4_0.gguf", cache)
    path = find_model_path(config)
    assert path.read_bytes() == b"model.Q4_0.gguf"
    assert hub.downloads() == {"model.Q4_0.gguf"}
    hub.requests.clear()
    assert find_model_path(config) == path
    assert hub.downloads() == set()
    with use_hub(unused_url()):
        assert find_model_path(config) == path
        assert "no complete copy" in refusal("org/model-GGUF:other.gguf", cache)


def test_all_files_of_a_split_gguf_model_are_downloaded(hub, gguf_repository, cache):
    hub.add("org/model-GGUF", gguf_repository, revision="v2")
    first = "Q8_0/model-00001-of-00002.gguf"
    path = find_model_path(create_config(f"org/model-GGUF@v2:{first}", cache))
    assert path.read_bytes() == first.encode()
    assert path.with_name("model-00002-of-00002.gguf").read_bytes() == b"second"
    assert len(hub.downloads()) == 2


def test_several_gguf_files_on_the_hub_are_refused_with_their_names(hub, gguf_repository, cache):
    hub.add("org/model-GGUF", gguf_repository)
    message = refusal("org/model-GGUF", cache)
    assert "holds 2 GGUF files: Q8_0/model-00001-of-00002.gguf, model.Q4_0.gguf." in message
    assert "MODEL_NAME=org/model-GGUF:Q8_0/model-00001-of-00002.gguf" in message
    assert hub.downloads() == set()


def test_the_only_gguf_file_on_the_hub_is_downloaded(hub, gguf_repository, cache):
    shutil.rmtree(gguf_repository / "Q8_0")
    hub.add("org/model-GGUF", gguf_repository)
    config = create_config("org/model-GGUF", cache)
    path = find_model_path(config)
    assert path.name == "model.Q4_0.gguf"
    with use_hub(unused_url()):
        assert find_model_path(config) == path


def test_a_gguf_file_that_the_hub_does_not_have_is_refused_with_those_it_has(
    hub, gguf_repository, cache
):
    hub.add("org/model-GGUF", gguf_repository)
    message = refusal("org/model-GGUF:model.Q5_0.gguf", cache)
    assert "has no file model.Q5_0.gguf" in message
    assert "are: Q8_0/model-00001-of-00002.gguf, model.Q4_0.gguf." in message


def test_a_gguf_file_that_is_not_there_is_refused(tmp_path):
    assert "there is no folder" in refusal(tmp_path / "model.gguf")
