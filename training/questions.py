"""What an exam consists of.

Contract: plain data; a question knows what is right.
"""

from collections.abc import Callable
from dataclasses import dataclass

from training.documents import ROLE_TOKENS


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and whether the text that follows it is right."""

    prompt: str
    is_right: Callable[[str], bool]

    @property
    def is_chat(self) -> bool:
        """True where the model has to end its turn by itself."""
        return self.prompt.endswith(ROLE_TOKENS["assistant"])


@dataclass(frozen=True, slots=True)
class Exam:
    """One row of the table: its questions, answered greedily unless `sample`."""

    name: str
    questions: list[Question]
    goal: str = "reported"
    sample: bool = False
    max_new_tokens: int = 80
