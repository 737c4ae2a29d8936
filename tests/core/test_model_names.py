"""Names of the model: those of SERVED_MODEL_NAME, or the last part of MODEL_NAME."""

from pathlib import Path

import pytest

from src.core.model_names import find_model_names


@pytest.mark.parametrize(
    ("model_name", "first", "root"),
    [
        ("storyteller", "storyteller", "storyteller"),
        ("gpt2", "gpt2", "gpt2"),
        ("Qwen/Qwen3-0.6B", "Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-0.6B@refs/pr/1", "Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("/srv/models/llama", "llama", "llama"),
        ("/srv/models/llama/", "llama", "llama"),
        ("/srv/models/llama/.", "llama", "llama"),
        ("/srv/models/llama/../gpt", "gpt", "gpt"),
        ("./llama", "llama", "llama"),
        ("../llama", "llama", "llama"),
        ("~/llama", "llama", "llama"),
        ("/srv/models/llama-Q4_K_M.gguf", "llama-Q4_K_M", "llama-Q4_K_M"),
        ("/srv/models/llama@home", "llama@home", "llama@home"),
        ("/srv/models/a\x1bb\n", "a_b_", "a_b_"),
        ("/", "model", "model"),
    ],
)
def test_the_name_is_the_last_part(model_name, first, root):
    names = find_model_names(model_name)
    assert (names.served, names.first, names.root) == ((first,), first, root)


def test_a_folder_wins_over_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models", "llama").mkdir(parents=True)
    names = find_model_names("models/llama")
    assert (names.first, names.root) == ("llama", "llama")
    assert "models/llama" not in names


def test_the_working_directory_is_named_by_its_last_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model_names(".").first == tmp_path.name
    assert find_model_names("..").first == tmp_path.parent.name


def test_requests_may_use_each_name_and_the_hub_id():
    names = find_model_names("Qwen/Qwen3-0.6B@main", "assistant, assistant-2026-11")
    assert names.served == ("assistant", "assistant-2026-11")
    allowed = ["assistant", "assistant-2026-11", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B@main"]
    assert all(name in names for name in allowed)
    assert not any(name in names for name in ("Qwen3-0.6B", "assistant,", "Assistant", ""))


def test_the_root_of_a_folder_is_its_first_name():
    names = find_model_names("/srv/models/llama", "assistant,other")
    assert names.root == "assistant"
    assert "llama" not in names
    assert "/srv/models/llama" not in names
