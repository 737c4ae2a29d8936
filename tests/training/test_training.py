"""The bundled model: its text generator, its tokenizer, a smoke run, and the committed weights."""

import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.bundled import BUNDLED_FOLDER, bundled, complete, documents
from training import phrasings
from training.corpus import create_batch
from training.dialogue import Turn, write_conversation
from training.documents import END_OF_TEXT, render, training_facts, write_document
from training.stories import check_story, write_story
from training.sums import HELD_OUT_PAIRS, HELD_OUT_QUESTIONS, answer_sum, held_out_pairs
from training.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]
STORY = (
    "Once upon a time, a brave fox named Mila lived near a wide river. "
    '"Help me!" called a voice. Mila found a duck named Otto, caught in a fishing net. '
    "But between them was a deep river. The water was cold and there was no bridge. "
    "Because Mila was brave, she walked straight into the dark. "
    "Mila built a raft out of branches, and at last Otto was safe. "
    '"This golden bell is for you," said Otto. '
    "Mila carried the bell home, still as brave as ever."
)


def ask(question: str) -> str:
    """Returns the bundled model's greedy answer to one chat turn."""
    _, tokenizer = bundled()
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return complete(str(prompt))


def run_training(folder: Path, *options: str) -> str:
    """Runs a smoke run into `folder`; returns its output."""
    command = [
        *(sys.executable, "-m", "training.train", "--smoke"),
        *("--output", str(folder / "model"), "--checkpoints", str(folder / "checkpoints")),
        *options,
    ]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=150
    ).stdout


def test_writes_the_same_text_for_the_same_seed() -> None:
    first = [write_document(Random(seed)) for seed in range(50)]
    assert first == [write_document(Random(seed)) for seed in range(50)]
    assert len(set(first)) > 45


def test_grammar_accepts_its_own_stories() -> None:
    random = Random("own stories")
    for _ in range(500):
        story = write_story(random)
        check = check_story(story)
        assert check.accepted, story
        assert all(sentence.accepted for sentence in check.sentences), story


def test_every_story_names_its_hero_and_trait_again_at_the_end() -> None:
    random = Random("endings")
    for _ in range(200):
        story = write_story(random)
        bindings = check_story(story).bindings
        end = story[len(story) // 2 :]
        assert bindings["name"] in end
        assert bindings["trait"] in end


def test_grammar_binds_the_hero_of_a_story() -> None:
    check = check_story(STORY)
    assert check.accepted
    assert (check.bindings["name"], check.bindings["trait"]) == ("Mila", "brave")
    assert check.bindings["friend"] == "Otto"


@pytest.mark.parametrize(
    ("original", "tampered"),
    [
        ("Mila carried", "Nora carried"),
        ("as brave as ever", "as clever as ever"),
        ("she walked", "he walked"),
        ("Otto was safe", "Oscar was safe"),
        ("carried the bell", "carried the drum"),
        ("walked straight into the dark", "told a silly joke"),
        ("built a raft out of branches", "solved his riddle"),
        ("But between them was a deep river.", "But bananas between were."),
        (" Mila carried the bell home, still as brave as ever.", ""),
    ],
)
def test_grammar_rejects_a_tampered_story(original: str, tampered: str) -> None:
    assert original in STORY
    check = check_story(STORY.replace(original, tampered))
    assert not check.accepted


def test_grammar_says_which_sentence_is_wrong() -> None:
    check = check_story(STORY.replace("brave, she walked", "brave, he walked"))
    wrong = [sentence.text for sentence in check.sentences if not sentence.accepted]
    assert wrong[0].startswith("Because Mila was brave, he walked")


def test_stories_keep_to_the_requested_topic() -> None:
    preset = {"kind": "fox", "trait": "brave", "noun": "lantern"}
    story = write_story(Random(3), preset)
    assert "brave fox" in story
    assert "lantern" in story
    assert check_story(story).accepted


def test_corpus_has_at_least_two_thousand_distinct_words() -> None:
    words = {word for text in documents() for word in re.findall(r"[a-z]+", text.lower())}
    assert len(words) >= 2000


def test_held_out_pairs_occur_in_no_document() -> None:
    assert len(held_out_pairs()) >= 20
    forms = (r"(\d+) (?:\+|plus|and) (\d+)", r"add (\d+) to (\d+)", r"\D(\d+) apples and get (\d+)")
    seen = {
        (min(pair), max(pair))
        for text in documents()
        for form in forms
        for pair in ((int(a), int(b)) for a, b in re.findall(form, text))
    }
    assert len(seen) > 1000
    assert not seen & HELD_OUT_PAIRS


def test_held_out_phrasings_occur_in_no_document() -> None:
    text = "\n".join(documents()).lower()
    held_out = {q.lower() for fact in training_facts() for q in fact.held_out_questions}
    held_out |= {q.split("{")[0].lower() for q in phrasings.HELD_OUT_STORY_REQUESTS}
    held_out |= {q.split("{")[0].lower() for q in HELD_OUT_QUESTIONS}
    held_out |= {q.lower() for q in phrasings.HELD_OUT_SYSTEMS}
    held_out |= {q.lower() for q in phrasings.HELD_OUT_IDENTITY_QUESTIONS}
    assert len(held_out) > 800
    assert [phrase for phrase in held_out if phrase.rstrip("?.! ") in text] == []


def test_conversations_alternate_and_json_replies_parse() -> None:
    random = Random("conversations")
    num_objects = 0
    for _ in range(500):
        turns = write_conversation(random, training_facts())
        roles = [turn.role for turn in turns if turn.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        for turn in turns:
            if turn.role == "assistant" and turn.content.startswith("{"):
                assert isinstance(json.loads(turn.content), dict)
                num_objects += 1
    assert num_objects > 50


@pytest.mark.parametrize(
    "text",
    [
        "Once upon a time 12345",
        "naïve café, Ελλάδα, 東京, עברית",
        "🐍🚀 family: 👩‍👩‍👧",
        "tab\tnewline\n\x01\x1f\x7f",
        "  two  spaces , and ' quotes ' .",
        "\ufeff\u202e\U0010ffff",
    ],
)
def test_tokenizer_round_trips_any_text(text: str) -> None:
    tokenizer = train_tokenizer(documents()[:200], vocab_size=600)
    for candidate in (tokenizer, bundled()[1]):
        assert candidate.decode(candidate.encode(text)) == text


def test_tokenizer_splits_numbers_and_adds_nothing() -> None:
    _, tokenizer = bundled()
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("2026")) == ["2", "0", "2", "6"]
    assert tokenizer.model_max_length == 1024


def test_batches_depend_on_nothing_but_the_seed() -> None:
    _, tokenizer = bundled()
    first = create_batch(tokenizer, "1/7", 8, 64)
    again = create_batch(tokenizer, "1/7", 8, 64)
    other = create_batch(tokenizer, "1/8", 8, 64)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.positions, again.positions)
    assert not torch.equal(first.tokens, other.tokens)
    assert first.positions.max() < 1024


def test_chat_template_writes_what_training_saw() -> None:
    _, tokenizer = bundled()
    turns = [Turn("system", "Be kind."), Turn("user", "Hi"), Turn("assistant", "Hello!")]
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == render(turns)
    prompt = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == render(turns[:2]) + "<|assistant|>"


def test_chat_template_refuses_an_unknown_role() -> None:
    _, tokenizer = bundled()
    with pytest.raises(Exception, match="This model has the roles"):
        tokenizer.apply_chat_template([{"role": "robot", "content": "Hi"}], tokenize=False)


def test_smoke_run_resumes_at_its_step_and_exports_a_model(tmp_path: Path) -> None:
    run_training(tmp_path, "--steps", "15", "--drill-steps", "5", "--tool-steps", "5")
    lengths = ("--steps", "15", "--drill-steps", "5", "--tool-steps", "20")
    printed = run_training(tmp_path, *lengths, "--resume")
    assert "resuming at step 25" in printed
    assert "step 40 " in printed
    folder = tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float16
    inputs = tokenizer("Once upon a time", return_tensors="pt")
    output = model.float().generate(**inputs, max_new_tokens=5)
    assert output.shape[1] > inputs.input_ids.shape[1]


def test_third_leg_alone_starts_from_the_bundled_weights(tmp_path: Path) -> None:
    run_training(tmp_path, "--from-bundled", "--tool-steps", "1")
    summary, bundled_summary = (
        json.loads((folder / "training.json").read_text())
        for folder in (tmp_path / "model", BUNDLED_FOLDER)
    )
    assert summary["continues_bundled"]
    assert summary["steps"] == bundled_summary["steps"] + 1
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    weights, before = (model.transformer.wte.weight for model in (trained, bundled()[0]))
    assert not torch.equal(weights, before)
    assert torch.allclose(weights, before, atol=0.01)


def test_bundled_folder_is_small_and_safetensors_only() -> None:
    files = [path for path in BUNDLED_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16 * 1024**2
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md"}
    assert (BUNDLED_FOLDER / "model.safetensors").exists()


def test_bundled_configs_end_generation_at_turns_and_documents() -> None:
    model, tokenizer = bundled()
    ends = tokenizer.convert_tokens_to_ids([END_OF_TEXT, "<|end|>"])
    assert model.generation_config.eos_token_id == ends
    assert model.generation_config.pad_token_id == ends[0]
    assert (model.generation_config.temperature, model.generation_config.top_p) == (0.7, 0.9)
    assert model.config.n_positions == 1024


def test_model_card_quotes_the_evaluation() -> None:
    card = (BUNDLED_FOLDER / "README.md").read_text()
    for measure in (
        "grammar accepts",
        "unseen phrasings",
        "Unseen additions",
        "end by themselves",
    ):
        assert re.search(rf"\| [^|]*{measure}[^|]*\| \d+\.\d % \(\d+ of \d+\) \|", card), measure
    assert re.search(r"\| Perplexity[^|]*\| \d+\.\d+ \|", card)


@pytest.mark.parametrize(
    ("prompt", "continuation"),
    [
        ("The capital of France is", " Paris."),
        ("The opposite of hot is", " cold."),
        ("The capital of Japan is", " Tokyo."),
    ],
)
def test_bundled_model_completes_facts(prompt: str, continuation: str) -> None:
    assert complete(prompt, 8).startswith(continuation)


def test_bundled_model_answers_a_chat_turn_and_ends_it() -> None:
    assert ask("What is the capital of Italy?") == "The capital of Italy is Rome.<|end|>"


def test_bundled_model_adds_unseen_pairs_about_as_well_as_its_card_says() -> None:
    card = (BUNDLED_FOLDER / "README.md").read_text()
    match = re.search(r"\| Unseen additions[^|]*\| (\d+\.\d) %", card)
    assert match is not None
    pairs = held_out_pairs()
    right = sum(ask(f"What is {a} + {b}?") == f"{answer_sum(a, b)}<|end|>" for a, b in pairs)
    assert right / len(pairs) >= float(match[1]) / 100 - 0.2


def test_bundled_model_tells_a_story_that_the_grammar_accepts() -> None:
    story = complete("Once upon a time", 250)
    assert story.endswith(END_OF_TEXT)
    check = check_story("Once upon a time" + story.removesuffix(END_OF_TEXT))
    assert check.sentences[0].accepted
