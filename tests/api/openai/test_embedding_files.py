"""Embeddings as a model's files ask for them: pooling, prompts, sizes; and longer inputs, cut."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, Qwen3Config

from src.engine.model.embedding_config import find_embedding_config
from src.errors import ModelLoadError
from tests.api.openai.test_errors import error_of
from tests.support.servers import LocalServer
from tests.support.wire import post

EMBEDDINGS = "/v1/embeddings"
TEXT = "the cat sat on the mat and the dog " * 3
TOLERANCE = 1e-5
MODULE = "sentence_transformers.models."
CONFIG = "config_sentence_transformers.json"
PROMPTS = {"query": "the dog and ", "document": ""}


@pytest.fixture
def serve_files(tiny_model, tmp_path: Path, start_server) -> Callable[..., LocalServer]:
    """Serves a tiny model of Qwen3's shape with further files in its folder."""

    def serve(files: dict[str, object], **settings: object) -> LocalServer:
        folder = tmp_path / "model"
        shutil.copytree(tiny_model("qwen3"), folder)
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content))
        return start_server(model_name=str(folder), **settings)

    return serve


def pooling(*further: str, **entries: object) -> dict[str, object]:
    """Files of sentence-transformers with these entries of the pooling, and further modules."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling"} | {f"2_{kind}": kind for kind in further}
    kinds |= {"3_Normalize": "Normalize"}
    modules = [{"path": path, "type": MODULE + kind} for path, kind in kinds.items()]
    return {"modules.json": modules, "1_Pooling/config.json": entries}


def embed(server: LocalServer, **fields: object) -> list[float]:
    answer = post(server, EMBEDDINGS, **{"model": server.engine.model_name, "input": TEXT} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"][0]["embedding"]


def hidden_states(server: LocalServer, text: str = TEXT) -> torch.Tensor:
    """HuggingFace's, (num_tokens, size)."""
    folder = server.service.settings.model_name
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    token_ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model(token_ids).last_hidden_state[0]


def scaled(vector: torch.Tensor) -> list[float]:
    return (vector / vector.norm()).tolist()


@pytest.mark.parametrize("engine", ["continuous", "reference"])
@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, lambda s: s[-1]),
        ({"pooling_mode": "lasttoken"}, lambda s: s[-1]),
        ({"pooling_mode_cls_token": True}, lambda s: s[0]),
        ({"pooling_mode_mean_tokens": True}, lambda s: s.mean(dim=0)),
    ],
)
def test_hidden_states_are_pooled_as_the_files_say(serve_files, engine, entries, expected):
    # A step of eight tokens: the text comes in several pieces.
    server = serve_files(
        pooling(**entries), engine=engine, max_num_batched_tokens=8, max_batch_size=8
    )
    states = hidden_states(server)
    assert len(states) > 16
    assert embed(server) == pytest.approx(scaled(expected(states)), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (pooling(pooling_mode_max_tokens=True), "the pooling max"),
        (pooling(pooling_mode_mean_tokens=True, pooling_mode_cls_token=True), "mean and cls"),
        ({"modules.json": [{"path": "2_Dense", "type": MODULE + "Dense"}]}, "a module Dense"),
        (pooling("Dense", pooling_mode_mean_tokens=True), "a module Dense"),
        (
            pooling(pooling_mode_mean_tokens=True, include_prompt=False)
            | {CONFIG: {"prompts": PROMPTS}},
            "out of the mean",
        ),
    ],
)
def test_embeddings_that_need_more_are_refused_and_answers_are_not(serve_files, files, reason):
    server = serve_files(files)
    name = server.engine.model_name
    error = error_of(post(server, EMBEDDINGS, model=name, input="the cat"), 400)
    assert error["param"] == "model"
    assert reason in error["message"]
    assert post(server, "/v1/completions", model=name, prompt="the", max_tokens=1).is_success


def test_a_prompt_of_the_files_goes_before_each_text(serve_files):
    named = {"prompts": PROMPTS, "default_prompt_name": "query"}
    server = serve_files({CONFIG: named})
    plain = hidden_states(server, TEXT).mean(dim=0)
    prompted = hidden_states(server, PROMPTS["query"] + TEXT).mean(dim=0)
    assert embed(server) == pytest.approx(scaled(prompted), abs=TOLERANCE)
    assert embed(server, prompt_name="document") == pytest.approx(scaled(plain), abs=TOLERANCE)
    body = {"model": server.engine.model_name, "input": "a", "prompt_name": "passage"}
    error = error_of(post(server, EMBEDDINGS, **body), 400)
    assert error["param"] == "prompt_name"
    assert "document, query" in error["message"]


def test_an_embedding_is_cut_to_sizes_that_the_operator_names(serve_files):
    server = serve_files({}, embedding_dimensions="4,8")
    whole = torch.tensor(embed(server))
    assert embed(server, dimensions=8) == pytest.approx(scaled(whole[:8]), abs=TOLERANCE)
    assert embed(server, dimensions=len(whole)) == whole.tolist()
    body = {"model": server.engine.model_name, "input": "a"}
    error = error_of(post(server, EMBEDDINGS, **body, dimensions=5), 400)
    assert f"4, 8, {len(whole)}" in error["message"]


def test_an_embedding_is_cut_to_sizes_that_the_files_name(serve_files):
    server = serve_files({CONFIG: {"matryoshka_dimensions": [8, 64]}})
    whole = torch.tensor(embed(server))
    assert embed(server, dimensions=8) == pytest.approx(scaled(whole[:8]), abs=TOLERANCE)
    for dimensions in (5, 64):  # an embedding has 32
        body = {"model": server.engine.model_name, "input": "a", "dimensions": dimensions}
        error = error_of(post(server, EMBEDDINGS, **body), 400)
        assert f"these dimensions: 8, {len(whole)}." in error["message"]


@pytest.mark.parametrize("sizes", ["8", [8, "16"], [0], [True]])
def test_sizes_that_are_none_are_refused_at_the_start(tmp_path, sizes):
    (tmp_path / CONFIG).write_text(json.dumps({"matryoshka_dimensions": sizes}))
    with pytest.raises(ModelLoadError, match="no list of sizes"):
        find_embedding_config(tmp_path, Qwen3Config(), "auto")


def test_an_embedding_is_cut_to_any_size_if_the_operator_says_so(serve_files):
    server = serve_files({}, embedding_dimensions="any")
    whole = torch.tensor(embed(server))
    assert embed(server, dimensions=3) == pytest.approx(scaled(whole[:3]), abs=TOLERANCE)
    body = {"model": server.engine.model_name, "input": "a"}
    error = error_of(post(server, EMBEDDINGS, **body, dimensions=len(whole) + 1), 400)
    assert f"{len(whole)} dimensions at most" in error["message"]


def test_a_longer_input_is_cut_on_request(serve_files):
    server = serve_files({})
    name, long = server.engine.model_name, "the cat " * 5000
    assert error_of(post(server, EMBEDDINGS, model=name, input=long), 400)["param"] == "input"
    ids = post(server, "/tokenize", model=name, prompt=TEXT).json()["tokens"]
    assert embed(server, truncate_prompt_tokens=5) == embed(server, input=ids[:5])
    assert embed(server, input=ids, truncate_prompt_tokens=5) == embed(server, input=ids[:5])
    assert embed(server, truncate_prompt_tokens=10**6) == embed(server)
    answer = post(server, EMBEDDINGS, model=name, input=long, truncate_prompt_tokens=-1).json()
    assert answer["usage"]["prompt_tokens"] == server.engine.max_model_len
