"""The model card: its text, and the evaluation table that it quotes.

Contract: every figure comes from a run, either the training summary or the evaluation; none is
typed in.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from training.export import SUMMARY_FILE


@dataclass(frozen=True, slots=True)
class TableRow:
    """One measure: `count` of `total`, or a plain `value`."""

    name: str
    count: int = 0
    total: int = 0
    goal: str = "reported"
    value: float | None = None

    @property
    def result(self) -> str:
        """Formats the figure for the table."""
        if self.value is not None:
            return f"{self.value:.2f}"
        return f"{100 * self.count / self.total:.1f} % ({self.count} of {self.total})"


def format_table(rows: Sequence[TableRow]) -> str:
    """Creates a Markdown table of all rows."""
    lines = [f"| {row.name} | {row.result} | {row.goal} |" for row in rows]
    return "\n".join(["| Measure | Result | Goal |", "| --- | --- | --- |", *lines])


def tell_history(summary: dict[str, Any]) -> str:
    """Describes the run if it differs from the recipe."""
    continued = (
        "The third leg started from the float16 weights that the first two had left, with new "
        "optimizers."
    )
    parts = [continued if summary["continues_bundled"] else "", summary["note"]]
    return " ".join(part for part in parts if part) or "It was one run from random weights."


def write_model_card(folder: Path, rows: Sequence[TableRow]) -> None:
    """Writes `README.md` into the model's folder."""
    summary: dict[str, Any] = json.loads((folder / SUMMARY_FILE).read_text())
    template = Template(Path(__file__).with_name("model_card.md").read_text())
    settings = summary["settings"]
    text = template.substitute(
        table=format_table(rows),
        history=tell_history(summary),
        steps=f"{summary['steps']:,}",
        tokens=f"{summary['tokens'] / 1e6:.1f} million",
        minutes=f"{summary['minutes']:.0f}",
        speed=f"{summary['tokens'] / summary['minutes'] / 60:,.0f}",
        parameters=f"{summary['parameters'] / 1e6:.1f} million",
        layers=settings["num_layers"],
        width=settings["num_embd"],
        heads=settings["num_heads"],
        vocabulary=f"{settings['vocab_size']:,}",
    )
    (folder / "README.md").write_text(text)
