"""Measurements as records of a JSON file.

Imports the standard library alone, as the plot is drawn in an environment of its own.
"""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Weights:
    """Numbers of weights that a token passes: those of the layers, and those of the head."""

    layers: int
    head: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Capacity of the machine; see `benchmarks.peers.machine`.

    Args:
        gb_per_second: bandwidth of reading memory.
        gflop_per_second: rate of products of float32 matrices.
        int8_gop_per_second: rate of products of 8-bit integers.
    """

    processor: str
    num_cores: int
    gb_per_second: float
    gflop_per_second: float
    int8_gop_per_second: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed of a job on a system. The jobs of a round ran in turn, on the same prompts."""

    model: str
    precision: str
    system: str
    sampling: str
    batch: int
    round: int
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Number of greedy tokens, of `length`, before each text differs from HuggingFace's."""

    model: str
    precision: str
    system: str
    length: int
    agreed: list[int]


@dataclass(frozen=True, slots=True)
class Failure:
    """A system that could not be measured, with the reason."""

    model: str
    precision: str
    system: str
    reason: str


@dataclass(slots=True)
class Data:
    """All measurements."""

    weights: dict[str, Weights] = field(default_factory=dict)
    machines: list[Machine] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "Data":
        raw = json.loads(path.read_text())
        return cls(
            {name: Weights(**record) for name, record in raw["weights"].items()},
            [Machine(**record) for record in raw["machines"]],
            [Speed(**record) for record in raw["speeds"]],
            [Agreement(**record) for record in raw["agreements"]],
            [Failure(**record) for record in raw["failures"]],
        )

    def save(self, path: Path) -> None:
        """Writes one record a line, so that differences between files are readable."""
        parts = []
        for name, value in asdict(self).items():
            if isinstance(value, dict):
                parts.append(f"{json.dumps(name)}: {json.dumps(value)}")
            else:
                lines = ",\n".join(f"  {json.dumps(record)}" for record in value)
                parts.append(f"{json.dumps(name)}: [\n{lines}\n]")
        path.parent.mkdir(exist_ok=True)
        path.write_text("{\n" + ",\n".join(parts) + "\n}\n")

    @property
    def next_round(self) -> int:
        return max((speed.round for speed in self.speeds), default=-1) + 1

    @property
    def machine(self) -> Machine:
        """Returns the medians of all measurements of the machine."""
        first = self.machines[0]
        return Machine(
            first.processor,
            first.num_cores,
            statistics.median(machine.gb_per_second for machine in self.machines),
            statistics.median(machine.gflop_per_second for machine in self.machines),
            statistics.median(machine.int8_gop_per_second for machine in self.machines),
        )
