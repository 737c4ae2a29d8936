"""Compiles the kernels: `python src/engine/kernels/build.py`, which `make install` does.

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
SOURCES = FOLDER / "csrc"
MAIN_SOURCE = SOURCES / "kernels.cpp"
VARIANTS = {
    "amx": ["-march=x86-64-v4", "-mavx512vnni", "-mamx-tile", "-mamx-int8"],
    "avx512vnni": ["-march=x86-64-v4", "-mavx512vnni"],
    "avx2": ["-march=x86-64-v3"],
}
"""What each is compiled for, the best first; the processor that runs them need not be this one."""

AVX512VNNI = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"}
NEEDED = {
    "amx": AVX512VNNI | {"amx_tile", "amx_int8"},
    "avx512vnni": AVX512VNNI,
    "avx2": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"},
}
"""What Linux calls the instructions that a variant needs."""

FLAGS = [
    *("-std=c++17", "-O3", "-pthread", "-fPIC", "-shared", "-fno-exceptions", "-fno-rtti"),
    "-ffp-contract=off",  # else the number of rows may decide where the compiler fuses additions
]


def library_path(variant: str) -> Path:
    """Where a variant lies: the name tells the source it was built from, so an old one is none."""
    source = b"".join(path.read_bytes() for path in sorted([*SOURCES.glob("*.h"), MAIN_SOURCE]))
    return FOLDER / f"kernels-{variant}-{hashlib.sha256(source).hexdigest()[:12]}.so"


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
        if _knows(compiler, target):
            build(compiler, target, library_path(variant))
        else:
            _say(f"No kernels of our own for {variant}: the compiler does not know it.")
    return None


def _knows(compiler: str, target: list[str]) -> bool:
    command = [compiler, *target, "-E", "-x", "c++", os.devnull]
    return not subprocess.run(command, check=False, capture_output=True).returncode  # noqa: S603 # nosec


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def build(compiler: str, target: list[str], library: Path) -> None:
    """Compiles one variant, and removes what an older source left of it."""
    if library.exists():
        return
    _say(f"Building kernels: {library.name} (10 to 60 seconds) ...")
    unfinished = library.with_suffix(f".{os.getpid()}")
    command = [compiler, *FLAGS, *target, str(MAIN_SOURCE), "-o", str(unfinished)]
    if subprocess.run(command, check=False).returncode:  # noqa: S603 # nosec
        sys.exit("The kernels cannot be compiled; see above. CXX= make install does without them.")
    for old in FOLDER.glob(library.name.rsplit("-", 1)[0] + "-*.so"):
        old.unlink()
    unfinished.rename(library)


if __name__ == "__main__":
    main()
