"""What a container allows is read from either version of control groups, the own group and those above."""

from pathlib import Path

import pytest

from pipeline.processes import cgroup


def a_machine(folder: Path, monkeypatch: pytest.MonkeyPatch, membership: str, files: dict[str, str]) -> None:
    (folder / "membership").write_text(membership)
    for name, text in files.items():
        path = folder / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    monkeypatch.setattr(cgroup, "_ROOT", folder / "fs")
    monkeypatch.setattr(cgroup, "_MEMBERSHIP", folder / "membership")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)


def test_version_2_the_smallest_limit_on_the_way_up_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "cpu.max": "max 100000",
        "a/cpu.max": "150000 100000",
        "a/b/cpu.max": "max 100000",
        "a/memory.max": "1000000",
        "a/b/memory.max": "max",
        "a/b/memory.events": "oom 4\noom_kill 3",
    }
    a_machine(tmp_path, monkeypatch, "0::/a/b\n", files)
    assert (cgroup.cores(), cgroup.memory_bytes(), cgroup.oom_kills()) == (2, 1_000_000, 3)


def test_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "cpu,cpuacct/a/cpu.cfs_quota_us": "300000",
        "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
        "memory/a/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.limit_in_bytes": "2000000",
        "memory/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1",
    }
    a_machine(tmp_path, monkeypatch, "4:cpu,cpuacct:/a\n3:memory:/a\n", files)
    assert (cgroup.cores(), cgroup.memory_bytes(), cgroup.oom_kills()) == (3, 2_000_000, 1)


def test_without_limits_it_is_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_machine(tmp_path, monkeypatch, "", {})
    assert (cgroup.cores(), cgroup.oom_kills()) == (8, 0)
    assert cgroup.memory_bytes() > 0
