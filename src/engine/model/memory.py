"""How much memory there is to take: on a CPU what the machine and the container have free.

A container's limit is its control group's. Groups are nested, and each one's limit holds for all
below it: a container sees its own as the root of the file system, a service of systemd is
somewhere below the root. Versions 1 and 2 of control groups are read, also side by side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

ROOT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class _Version:
    """How the files of a group and one field of its memory.stat are called."""

    limit: str
    used: str
    reclaimable: str


VERSION_1 = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = _Version("memory.max", "memory.current", "inactive_file")


def free_memory(root: Path = ROOT, own_groups: Path = OWN_GROUPS) -> int:
    """Bytes that this process may still take.

    Args:
        root: where the control groups are mounted.
        own_groups: the file that says which of them are this process's.
    """
    frees = [psutil.virtual_memory().available]
    for group in _groups(root, own_groups):
        free = _free_in_group(*group)
        if free is not None:
            frees.append(free)
    return max(0, min(frees))


def _groups(root: Path, own_groups: Path) -> Iterator[tuple[Path, _Version]]:
    """The groups that may limit this process's memory, from its own up to the root."""
    if not own_groups.exists():  # no Linux
        return
    for line in own_groups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, version = root, VERSION_2
        elif "memory" in controllers.split(","):
            mount, version = root / "memory", VERSION_1
        else:
            continue
        # A path outside of the mounted tree, as a container sees its host's, is not below it.
        own = PurePosixPath(path.lstrip("/"))
        groups = (PurePosixPath(),) if ".." in own.parts else (own, *own.parents)
        yield from ((mount / group, version) for group in groups)


def _free_in_group(folder: Path, version: _Version) -> int | None:
    """What a group leaves; None if it has no limit or is not there."""
    try:
        limit = (folder / version.limit).read_text().strip()
        used = int((folder / version.used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except FileNotFoundError:
        return None
    if limit == "max":
        return None
    # Files that were read, such as the weights, count as used until something else needs the room.
    return int(limit) - used + int(stat[version.reclaimable])
