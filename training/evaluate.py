"""Measures the exported model on held-out prompts: `python -m training.evaluate [--model DIR]`.

Contract: seeded, so the same folder gives the same table. The folder is loaded as users load it, in
float32. The table is printed and written into the model card beside the weights.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.card import TableRow, format_table, write_model_card
from training.corpus import create_batch
from training.documents import END_OF_TEXT, END_OF_TURN
from training.exams import Exam, Question, create_exams
from training.train import BUNDLED_FOLDER, compute_loss

BATCH_SIZE = 50
NUM_FAILURES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's text for a question, and whether it ended by itself."""

    question: Question
    text: str
    ended: bool

    @property
    def is_right(self) -> bool:
        """Tells a right text that ended by itself."""
        return self.ended and self.question.is_right(self.text)


class Examinee:
    """Loads the exported model as users do."""

    def __init__(self, folder: Path) -> None:
        # Any: the Auto classes are typed for every model and tokenizer at once.
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def answer(self, exam: Exam) -> list[Answer]:
        """Answers all questions of an exam, a batch at a time."""
        answers: list[Answer] = []
        for start in range(0, len(exam.questions), BATCH_SIZE):
            answers += self._answer_batch(exam, exam.questions[start : start + BATCH_SIZE])
        return answers

    @torch.inference_mode()
    def perplexity(self, num_batches: int = 12) -> float:
        """Returns the perplexity per token on documents of seeds that training never uses."""
        batches = [create_batch(self.tokenizer, f"exam/{i}", 16, 256) for i in range(num_batches)]
        losses = [compute_loss(self.model, batch) for batch in batches]
        return math.exp(torch.stack(losses).mean().item())

    @torch.inference_mode()
    def _answer_batch(self, exam: Exam, questions: list[Question]) -> list[Answer]:
        prompts = [question.prompt for question in questions]
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True)
        options = {} if exam.sample else {"do_sample": False, "temperature": None, "top_p": None}
        output = self.model.generate(**inputs, max_new_tokens=exam.max_new_tokens, **options)
        texts = self.tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :])
        return [create_answer(q, text) for q, text in zip(questions, texts, strict=True)]


def create_answer(question: Question, decoded: str) -> Answer:
    """Cuts a decoded completion at the first mark that ends a turn or a document."""
    ends = [decoded.index(mark) for mark in (END_OF_TEXT, END_OF_TURN) if mark in decoded]
    return Answer(question, decoded[: min(ends)] if ends else decoded, bool(ends))


def evaluate(folder: Path) -> list[TableRow]:
    """Yields every row of the table; prints some of the wrong answers."""
    torch.manual_seed(0)
    examinee = Examinee(folder)
    rows: list[TableRow] = []
    turns: list[Answer] = []
    for exam in create_exams():
        answers = examinee.answer(exam)
        turns += [answer for answer in answers if answer.question.is_chat]
        wrong = [answer for answer in answers if not answer.is_right]
        show_wrong(exam.name, wrong[:NUM_FAILURES_SHOWN])
        rows.append(TableRow(exam.name, len(answers) - len(wrong), len(answers), exam.goal))
    ended = sum(answer.ended for answer in turns)
    rows.append(TableRow("Chat turns that end by themselves", ended, len(turns), "≥ 98 %"))
    rows.append(TableRow("Perplexity per token, unseen documents", value=examinee.perplexity()))
    return rows


def show_wrong(name: str, wrong: list[Answer]) -> None:
    """Prints wrong answers, which show weaknesses of the recipe."""
    for answer in wrong:
        print(f"wrong in {name!r}: {answer.question.prompt}{answer.text}\n")


def main() -> None:
    """Prints the table and writes it into the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=BUNDLED_FOLDER, help="exported folder")
    folder = parser.parse_args().model
    rows = evaluate(folder)
    print(format_table(rows))
    write_model_card(folder, rows)


if __name__ == "__main__":
    main()
