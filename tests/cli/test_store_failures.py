"""What is wrong with a store is one sentence that names the setting, exit code 4, and nothing is lost: once it is
mended, the same command carries on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import Project
from tests.harness.model_server import ModelServer
from tests.harness.servers import SeaweedS3, free_ports

COUNT = 120


def on_s3(folder: Path, seaweed: SeaweedS3, bucket: str) -> Project:
    project = Project.make(folder, seaweed.env(), count=6)
    project.spec["sink"] = {"path": f"s3://{bucket}/out"}
    project.write()
    return project


@pytest.mark.parametrize(
    ("what", "wrong", "words"),
    [
        ("secret", {"AWS_SECRET_ACCESS_KEY": "wrong"}, ["secret key", "AWS_SECRET_ACCESS_KEY"]),
        ("key", {"AWS_ACCESS_KEY_ID": "wrong"}, ["access key", "AWS_ACCESS_KEY_ID"]),
        ("endpoint", {"AWS_ENDPOINT_URL": "http://127.0.0.1:{port}"}, ["no connection", "AWS_ENDPOINT_URL"]),
        ("bucket", {}, ["'no-such-bucket' does not exist", "AWS_ENDPOINT_URL"]),
        ("region", {"AWS_REGION": "not a region"}, ["AWS_REGION"]),
    ],
)
def test_a_store_that_cannot_be_used_is_told_before_anything_runs(
    tmp_path: Path, seaweed: SeaweedS3, what: str, wrong: dict[str, str], words: list[str]
) -> None:
    project = on_s3(tmp_path, seaweed, "no-such-bucket" if what == "bucket" else seaweed.bucket(f"failures-{what}"))
    (port,) = free_ports(1)
    project.env |= {name: value.format(port=port) for name, value in wrong.items()}
    told = project.tandem("run")
    assert told.code == 4, told
    lines = [line for line in told.err.splitlines() if line.strip()]
    assert lines[0].startswith("Error: sink.path = 's3://")
    assert len(lines) == 2, "a sentence and the next step"
    assert all(word in told.err for word in words), told.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def remounted(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def test_a_full_disk_is_told_and_the_run_is_carried_on_for_free(
    tmp_path: Path, small_disk: Path, model_server: ModelServer
) -> None:
    project = Project.make(tmp_path, model_server.env(), count=COUNT, model="openai:test-model")
    project.spec["sink"] = {"path": str(small_disk / "out")}
    project.write()
    (small_disk / "ballast").write_bytes(b"x" * 930_000)
    told = project.tandem("run", "--name", "full")
    assert told.code in (1, 4), told
    assert "no space is left on the disk" in told.err + told.out
    assert not list((small_disk / "out").glob("data/*/*.parquet")) or told.code == 1
    (small_disk / "ballast").unlink()
    report = project.tandem("run", "--name", "full", "--json").ok().json
    assert report["rows"]["ok"] == COUNT
    assert project.tandem("outputs", "verify").code == 0


def test_a_read_only_disk_is_told(tmp_path: Path, small_disk: Path) -> None:
    project = Project.make(tmp_path, count=6)
    project.spec["sink"] = {"path": str(small_disk / "out")}
    project.write()
    remounted(small_disk, "ro")
    told = project.tandem("run")
    assert told.code == 4, told
    assert "sink.path = " in told.err
    assert "the file system is read-only" in told.err
    remounted(small_disk, "rw")
    assert project.tandem("run", "--json").ok().json["rows"]["ok"] == 6
