"""Compiles the kernels: `python src/engine/kernels/build.py`, a part of `make install`.

Needs Python and a C++ compiler, `c++` or the one that CXX names. Without a compiler it says so and
succeeds, and the service runs on PyTorch's kernels. It imports no torch.
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
"""Compiler flags of each variant, the fastest first. All are built, whatever this processor has."""

AVX512VNNI = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"}
REQUIRED_FEATURES = {
    "amx": AVX512VNNI | {"amx_tile", "amx_int8"},
    "avx512vnni": AVX512VNNI,
    "avx2": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"},
}
"""Processor features of each variant, by their names in /proc/cpuinfo."""

FLAGS = [
    "-std=c++17",
    "-O3",
    "-pthread",
    "-fPIC",
    "-shared",
    "-fno-exceptions",
    "-fno-rtti",
    "-ffp-contract=off",  # FMA only where the code says so: else results depend on the row count
]


def library_path(variant: str) -> Path:
    """Returns the path of a variant's .so.

    The name contains a hash of the sources, so stale builds are not found.
    """
    source = b"".join(path.read_bytes() for path in sorted([*SOURCES.glob("*.h"), MAIN_SOURCE]))
    return FOLDER / f"kernels-{variant}-{hashlib.sha256(source).hexdigest()[:12]}.so"


@functools.cache
def usable_variants() -> tuple[str, ...]:
    """Returns the variants that were built and that this processor can run, the fastest first."""
    features = _processor_features()
    return tuple(
        variant
        for variant in VARIANTS
        if REQUIRED_FEATURES[variant] <= features and library_path(variant).exists()
    )


def _processor_features() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def main() -> None:
    """Builds the variants that are missing; the exit status is 1 if the compiler fails."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return _print("No C++ kernels: they need Linux on x86-64. PyTorch's kernels are used.")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return _print("No C++ kernels: no C++ compiler was found. PyTorch's kernels are used.")
    for variant, target in VARIANTS.items():
        if _supports(compiler, target):
            build(compiler, target, library_path(variant))
        else:
            _print(f"No C++ kernels for {variant}: the compiler does not support it.")
    return None


def _supports(compiler: str, target: list[str]) -> bool:
    command = [compiler, *target, "-E", "-x", "c++", os.devnull]
    return not subprocess.run(command, check=False, capture_output=True).returncode  # noqa: S603 # nosec


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def build(compiler: str, target: list[str], library: Path) -> None:
    """Compiles one variant and removes its builds from other sources."""
    if library.exists():
        return
    _print(f"Building kernels: {library.name} (10 to 60 seconds) ...")
    unfinished = library.with_suffix(f".{os.getpid()}")
    command = [compiler, *FLAGS, *target, str(MAIN_SOURCE), "-o", str(unfinished)]
    if subprocess.run(command, check=False).returncode:  # noqa: S603 # nosec
        sys.exit(
            "The kernels cannot be compiled; see the compiler's errors above."
            " `CXX= make install` installs without them."
        )
    for stale in FOLDER.glob(library.name.rsplit("-", 1)[0] + "-*.so"):
        stale.unlink()
    unfinished.rename(library)


if __name__ == "__main__":
    main()
