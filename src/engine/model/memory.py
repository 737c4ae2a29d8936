"""Free memory of the machine and of the container, for models on a CPU.

A container's limit is that of its control group (cgroup). Groups are nested, and each limit holds
for all groups below. A container sees its own group as the root of the file system; a systemd
service is somewhere below the root. Reads versions 1 and 2, also side by side.
"""

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

ROOT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class _Version:
    """Names of a group's files, and of one field of its memory.stat."""

    limit: str
    used: str
    reclaimable: str


VERSION_1 = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = _Version("memory.max", "memory.current", "inactive_file")


def free_memory(root: Path = ROOT, own_groups: Path = OWN_GROUPS) -> int:
    """Returns the number of bytes that this process may still allocate.

    Args:
        root: mount point of the control groups.
        own_groups: file that names the groups of this process.
    """
    frees = [psutil.virtual_memory().available]
    for group in _groups(root, own_groups):
        free = _free_in_group(*group)
        if free is not None:
            frees.append(free)
    return max(0, min(frees))


def release_free_memory() -> None:
    """Returns freed memory to the system; glibc keeps what lies between blocks in use."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _groups(root: Path, own_groups: Path) -> Iterator[tuple[Path, _Version]]:
    """Yields the groups that may limit this process's memory, from its own up to the root."""
    if not own_groups.exists():  # not Linux
        return
    for line in own_groups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, version = root, VERSION_2
        elif "memory" in controllers.split(","):
            mount, version = root / "memory", VERSION_1
        else:
            continue
        # With "..", the group is outside of the mounted tree, as a container sees its host's.
        group = PurePosixPath(path.lstrip("/"))
        groups = (PurePosixPath(),) if ".." in group.parts else (group, *group.parents)
        yield from ((mount / folder, version) for folder in groups)


def _free_in_group(folder: Path, version: _Version) -> int | None:
    """Returns the free bytes of a group; None if it has no limit or does not exist."""
    try:
        limit = (folder / version.limit).read_text().strip()
        used = int((folder / version.used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except FileNotFoundError:
        return None
    if limit == "max":
        return None
    # The page cache (files that were read, such as the weights) counts as used, but is reclaimed.
    return int(limit) - used + int(stat[version.reclaimable])
