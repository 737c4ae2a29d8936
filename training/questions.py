"""Questions and exams.

Contract: plain data; a question checks its own answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from training.documents import ROLE_TOKENS


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with the check of the text that follows."""

    prompt: str
    is_right: Callable[[str], bool]

    @property
    def is_chat(self) -> bool:
        """Tells a prompt after which the model must end its turn by itself."""
        return self.prompt.endswith(ROLE_TOKENS["assistant"])


@dataclass(frozen=True, slots=True)
class Exam:
    """One row of the table: its questions, answered greedily unless `sample`."""

    name: str
    questions: list[Question]
    goal: str = "reported"
    sample: bool = False
    max_new_tokens: int = 80
