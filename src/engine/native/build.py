"""Compiles the kernels: `python src/engine/native/build.py`, which `make install` does.

It needs nothing but Python and, for there to be kernels, a C++ compiler: `c++`, or what CXX names.
Where there is none the service runs on PyTorch's kernels, and says so. No torch.
"""

import functools
import hashlib
import os
import platform
import shutil
import subprocess  # nosec
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "kernels.cpp"
VARIANTS = {
    "avx512vnni": ["-march=x86-64-v4", "-mavx512vnni"],
    "avx2": ["-march=x86-64-v3"],
}
"""What each is compiled for, the best first; the processor that runs them need not be this one."""

NEEDED = {
    "avx512vnni": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"},
    "avx2": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"},
}
"""What Linux calls the instructions that a variant needs."""

FLAGS = ["-std=c++17", "-O3", "-pthread", "-fPIC", "-shared", "-fno-exceptions", "-fno-rtti"]


def library_path(variant: str) -> Path:
    """Where a variant lies: the name tells the source it was built from, so an old one is none."""
    return FOLDER / f"kernels-{variant}-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so"


@functools.cache
def usable_variants() -> tuple[str, ...]:
    """Those that were built and that this processor can run, the best first."""
    known = _processor_flags()
    return tuple(name for name in VARIANTS if NEEDED[name] <= known and library_path(name).exists())


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def main() -> None:
    """Builds what is not there; the exit status is 1 if the compiler fails."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return _say("No kernels of our own: they are for Linux on x86-64. PyTorch's are used.")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return _say("No kernels of our own: there is no C++ compiler. PyTorch's are used instead.")
    for variant, target in VARIANTS.items():
        build(compiler, target, library_path(variant))
    return None


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def build(compiler: str, target: list[str], library: Path) -> None:
    """Compiles one variant, and removes what an older source left of it."""
    if library.exists():
        return
    unfinished = library.with_suffix(f".{os.getpid()}")
    command = [compiler, *FLAGS, *target, str(SOURCE), "-o", str(unfinished)]
    if subprocess.run(command, check=False).returncode:  # noqa: S603 # nosec
        sys.exit("The kernels cannot be compiled; see above. CXX= make install does without them.")
    for old in FOLDER.glob(library.name.rsplit("-", 1)[0] + "-*.so"):
        old.unlink()
    unfinished.rename(library)


if __name__ == "__main__":
    main()
