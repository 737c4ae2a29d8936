"""Medians over rounds, ratios with their spread, and goals. Standard library alone."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.peers.records import Data
from benchmarks.peers.roofline import bound

PROMPT, NEW = 32, 64  # tokens
BEST_PEER, GREEDY, BOUND = "the best peer", "our greedy", "the bound"
OURS, OURS_HTTP = "ours", "ours-http"
OFFLINE_PEERS = ("ctranslate2", "openvino", "llama-cpp")
HTTP_SYSTEMS = (OURS_HTTP, "transformers-serve", "llama-cpp-server")


@dataclass(frozen=True, slots=True)
class Spread:
    """A median over the rounds, with minimum and maximum."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.minimum:.2f} to {self.maximum:.2f})"


@dataclass(frozen=True, slots=True)
class Goal:
    """Goal: a system of ours is at least `needed` times as fast as another."""

    precision: str
    sampling: str
    batch: int
    against: str
    needed: float
    system: str = OURS

    def __str__(self) -> str:
        return f"{self.system}, {self.precision}, {self.sampling}, {self.batch} at once"


GOALS = [
    *(Goal("float32", "greedy", batch, BEST_PEER, 1.0) for batch in (1, 8, 32)),
    Goal("float32", "greedy", 1, BOUND, 0.8),
    Goal("8-bit", "greedy", 1, "llama-cpp", 1.0),
    Goal("8-bit", "greedy", 8, BEST_PEER, 1.5),
    Goal("8-bit", "greedy", 32, BEST_PEER, 1.2),
    *(Goal(p, "top-p", batch, BEST_PEER, 2.0) for p in ("float32", "8-bit") for batch in (8, 32)),
    *(Goal(p, "top-p", batch, GREEDY, 0.9) for p in ("float32", "8-bit") for batch in (1, 8, 32)),
    Goal("float32", "greedy", 16, "transformers-serve", 2.0, OURS_HTTP),
    Goal("8-bit", "greedy", 16, "transformers-serve", 3.0, OURS_HTTP),
]


@dataclass(frozen=True, slots=True)
class Summary:
    """Queries over one model's measurements."""

    data: Data
    model: str

    def rounds(self, precision: str, system: str, sampling: str, batch: int) -> dict[int, float]:
        """Returns tokens per second of each round; empty if it was not measured."""
        wanted = (self.model, precision, system, sampling, batch)
        return {
            speed.round: speed.tokens_per_second
            for speed in self.data.speeds
            if (speed.model, speed.precision, speed.system, speed.sampling, speed.batch) == wanted
        }

    def speed(self, precision: str, system: str, sampling: str, batch: int) -> Spread | None:
        rounds = self.rounds(precision, system, sampling, batch)
        return Spread.of(rounds.values()) if rounds else None

    def bound(self, precision: str, batch: int) -> float:
        weights = self.data.weights[self.model]
        return bound(self.data.machine, weights, precision, batch, PROMPT, NEW)

    def best_peer(self, precision: str, sampling: str, batch: int) -> str | None:
        """Returns the fastest peer without HTTP by its median."""
        speeds = {
            peer: speed.median
            for peer in OFFLINE_PEERS
            if (speed := self.speed(precision, peer, sampling, batch)) is not None
        }
        return max(speeds, key=speeds.__getitem__) if speeds else None

    def batches(self, systems: Iterable[str]) -> list[int]:
        chosen = set(systems)
        return sorted(
            {s.batch for s in self.data.speeds if s.model == self.model and s.system in chosen}
        )

    def failed(self, precision: str, system: str) -> bool:
        wanted = (self.model, precision, system)
        return any((f.model, f.precision, f.system) == wanted for f in self.data.failures)

    def judge(self, goal: Goal) -> tuple[str, Spread] | None:
        """Returns the competitor, and our speed as a multiple of its speed, for each round."""
        ours = self.rounds(goal.precision, goal.system, goal.sampling, goal.batch)
        name, theirs = self._other(goal, ours)
        ratios = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys()]
        return (name, Spread.of(ratios)) if ratios else None

    def _other(self, goal: Goal, ours: dict[int, float]) -> tuple[str, dict[int, float]]:
        """Returns the speed that a goal compares with, for each round."""
        precision, batch = goal.precision, goal.batch
        if goal.against == BOUND:
            return BOUND, dict.fromkeys(ours, self.bound(precision, batch))
        if goal.against == GREEDY:
            return GREEDY, self.rounds(precision, OURS, "greedy", batch)
        name = goal.against
        if name == BEST_PEER:
            name = self.best_peer(precision, goal.sampling, batch) or name
        elif name == "transformers-serve":
            precision = "float32"  # its only class of precision
        return name, self.rounds(precision, name, goal.sampling, batch)
