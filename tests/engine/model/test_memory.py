"""Limits of control groups, in folders that imitate the kernel's files."""

from pathlib import Path

import pytest

from src.engine.model.memory import VERSION_1, VERSION_2, free_memory

MIB = 2**20
UNLIMITED_1 = 9223372036854771712  # the kernel's largest value, in whole pages


def write_group(folder: Path, version, limit: object, used: int, reclaimable: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / version.limit).write_text(f"{limit}\n")
    (folder / version.used).write_text(f"{used}\n")
    stat = f"total_inactive_file {reclaimable}\n" if version is VERSION_1 else ""
    own = 0 if version is VERSION_1 else reclaimable
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {own}\n{stat}")


def free(folder: Path, own: str) -> int:
    """Returns the free memory in groups below `folder`, for this text of /proc/self/cgroup."""
    own_groups = folder / "own"
    own_groups.write_text(own)
    return free_memory(folder, own_groups)


def test_a_container_of_version_2_sees_its_own_group_as_the_root(tmp_path):
    write_group(tmp_path, VERSION_2, 100 * MIB, 30 * MIB)
    assert free(tmp_path, "0::/\n") == 70 * MIB


def test_a_container_of_version_1_sees_its_own_group_as_the_root(tmp_path):
    """Names the host's path in /proc, which is not below the container's mount."""
    write_group(tmp_path / "memory", VERSION_1, 100 * MIB, 30 * MIB)
    own = "5:cpu,cpuacct:/docker/0123\n4:memory:/docker/0123\n0::/system.slice/docker\n"
    assert free(tmp_path, own) == 70 * MIB


@pytest.mark.parametrize(
    ("version", "mount", "own"),
    [
        (VERSION_1, "memory", "7:devices:/x\n4:memory:/system.slice/llm.service\n0::/y\n"),
        (VERSION_2, "", "0::/system.slice/llm.service\n"),
    ],
    ids=["version 1", "version 2"],
)
def test_the_tightest_group_on_the_way_to_the_root_counts(tmp_path, version, mount, own):
    root = tmp_path / mount
    write_group(root / "system.slice", version, 300 * MIB, 100 * MIB)
    write_group(root / "system.slice/llm.service", version, 250 * MIB, 100 * MIB)
    write_group(root / "other.slice", version, 1 * MIB, 0)
    assert free(tmp_path, own) == 150 * MIB
    write_group(root / "system.slice", version, 300 * MIB, 280 * MIB)
    assert free(tmp_path, own) == 20 * MIB


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2], ids=["version 1", "version 2"])
def test_the_page_cache_counts_as_free(tmp_path, version):
    root = tmp_path / ("memory" if version is VERSION_1 else "")
    write_group(root, version, 100 * MIB, 90 * MIB, reclaimable=60 * MIB)
    assert free(tmp_path, "4:memory:/\n0::/\n") == 70 * MIB


def test_memory_of_version_1_counts_beside_groups_of_version_2(tmp_path):
    """Mounts both, as systemd does: version 2 names a group without the memory controller."""
    write_group(tmp_path / "memory/a", VERSION_1, 50 * MIB, 10 * MIB)
    (tmp_path / "unified").mkdir()
    assert free(tmp_path, "4:memory:/a\n0::/user.slice\n") == 40 * MIB


def test_without_a_limit_the_machine_counts(tmp_path):
    write_group(tmp_path, VERSION_2, "max", 30 * MIB)
    write_group(tmp_path / "memory", VERSION_1, UNLIMITED_1, 30 * MIB)
    for own in ("0::/\n", "4:memory:/\n", "1:name=systemd:/\n", ""):
        assert free(tmp_path, own) > 500 * MIB, own
    assert free_memory(tmp_path / "nothing", tmp_path / "nothing") > 500 * MIB


def test_a_group_outside_of_the_mounted_tree_is_ignored(tmp_path):
    """Imitates a process that was started from another control group namespace."""
    write_group(tmp_path, VERSION_2, 10 * MIB, 0)
    write_group(tmp_path / "root", VERSION_2, 100 * MIB, 0)
    assert free(tmp_path / "root", "0::/../\n") == 100 * MIB


def test_a_group_over_its_limit_has_no_free_memory(tmp_path):
    write_group(tmp_path, VERSION_2, 10 * MIB, 20 * MIB)
    assert free(tmp_path, "0::/\n") == 0
