"""The compared systems; each opens as a function that runs jobs.

Systems without HTTP take whole batches; `benchmarks.load` sends requests to servers. A peer's model
is converted once, into `.bench/peers/models`. Its packages are in an environment of its own, which
`make bench-peers` installs.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench_model import BENCH_FOLDER
from benchmarks.folders import made_whole
from benchmarks.peers.gguf_layout import FILE_NAME
from benchmarks.peers.records import Machine
from benchmarks.peers.summary import OURS, OURS_HTTP
from benchmarks.servers import serve_llama_cpp
from benchmarks.systems import clients, ours, ours_offline, transformers_serve
from benchmarks.worker import ROOT, Run, start_worker
from benchmarks.workload import BenchmarkError, Job

PEERS_FOLDER = BENCH_FOLDER / "peers"
QUANTIZATION = {"float32": "none", "8-bit": "int8"}
"""Our engine's settings for each class of precision."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another engine, without HTTP.

    Args:
        worker: module that runs jobs.
        converter: module that writes its models.
        environment: folder of the worker's packages.
        converter_environment: folder of the converter's packages.
    """

    worker: str
    converter: str
    environment: str
    converter_environment: str

    def convert(self, folder: Path, precision: str) -> Path:
        """Returns the folder of the model in the peer's format; converts it if it is missing."""
        format_name = self.converter.removeprefix("convert_")
        target = PEERS_FOLDER / "models" / f"{folder.name}-{format_name}-{precision}"
        if not target.is_dir():
            with made_whole(target) as unfinished:
                command = [python_of(self.converter_environment), "-m"]
                command += [f"benchmarks.peers.{self.converter}", str(folder), str(unfinished)]
                run_command([*command, "--precision", precision])
        return target

    @contextmanager
    def open(self, folder: Path, precision: str) -> Iterator[Run]:
        module = f"benchmarks.peers.{self.worker}"
        options = (str(self.convert(folder, precision)), "--precision", precision)
        with start_worker(module, *options, python=python_of(self.environment)) as run:
            yield run

    def generate_greedily(self, folder: Path, precision: str, job: Job) -> list[list[int]]:
        """Returns the tokens that follow each of the job's prompts."""
        command = [python_of(self.environment), "-m", f"benchmarks.peers.{self.worker}"]
        command += [str(self.convert(folder, precision)), "--precision", precision, "--greedy"]
        answer: list[list[int]] = json.loads(run_command(command, job.to_json()).splitlines()[-1])
        return answer


PEERS = {
    "ctranslate2": Peer("run_ctranslate2", "convert_ctranslate2", "ctranslate2", "ctranslate2"),
    "openvino": Peer("run_openvino", "convert_openvino", "openvino", "openvino-convert"),
    "llama-cpp": Peer("run_llama_cpp", "convert_gguf", "llama-cpp", "llama-cpp"),
}


@contextmanager
def _ours(folder: Path, precision: str) -> Iterator[Run]:
    with ours_offline(str(folder), quantization=QUANTIZATION[precision]) as run:
        yield run


@contextmanager
def _ours_http(folder: Path, precision: str) -> Iterator[Run]:
    with ours(str(folder), quantization=QUANTIZATION[precision]) as run:
        yield run


@contextmanager
def _transformers_serve(folder: Path, precision: str) -> Iterator[Run]:
    assert precision == "float32"
    with transformers_serve(str(folder)) as run:
        yield run


@contextmanager
def _llama_cpp_server(folder: Path, precision: str) -> Iterator[Run]:
    peer = PEERS["llama-cpp"]
    model = peer.convert(folder, precision) / FILE_NAME
    python = Path(python_of(peer.environment))
    with serve_llama_cpp(python, model) as server, clients(server.url, "llama-cpp") as run:
        yield run


Open = Callable[[Path, str], AbstractContextManager[Run]]
"""Starts with the folder of a HuggingFace model and a class of precision."""

OFFLINE: dict[str, Open] = {OURS: _ours} | {name: peer.open for name, peer in PEERS.items()}
HTTP: dict[str, Open] = {
    OURS_HTTP: _ours_http,
    "transformers-serve": _transformers_serve,
    "llama-cpp-server": _llama_cpp_server,
}
SYSTEMS = OFFLINE | HTTP
FLOAT32_ALONE = {"transformers-serve"}


def python_of(environment: str) -> str:
    """Returns the path of python in a peer's environment.

    Raises:
        BenchmarkError: it is not installed.
    """
    folder = PEERS_FOLDER / environment
    if not (folder / ".installed").exists():
        raise BenchmarkError(f"{folder.relative_to(ROOT)} is not installed: see `make bench-peers`")
    return str(folder / "bin" / "python")


def run_command(command: list[str], stdin: str = "") -> str:
    """Returns the output of a command.

    Raises:
        BenchmarkError: it failed; the message has the last line of its output.
    """
    done = subprocess.run(  # noqa: S603 - our own module
        command, input=stdin, capture_output=True, text=True, check=False, cwd=ROOT
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or "nothing said").splitlines()[-1]
        raise BenchmarkError(f"{' '.join(command[1:3])}: {reason}")
    return done.stdout


def measure_machine() -> Machine:
    """Runs in a process of its own, so that its threads end before the next measurement."""
    command = [sys.executable, "-m", "benchmarks.peers.machine"]
    return Machine(**json.loads(run_command(command)))
