"""A file is its owner's while that process lives, and anybody's after a SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.owned_file import is_owned, left_behind, own

_OWNER = """
import os, sys, time
from pathlib import Path
from pipeline.owned_file import own
os.write(own(Path(sys.argv[1])), b"spent: 7")
print("owned", flush=True)
time.sleep(600)
"""


def test_a_file_is_read_after_its_owner_was_killed_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "count"
    command = [sys.executable, "-c", _OWNER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            assert owner.stdout.readline() == "owned\n"
            assert is_owned(path)
            with left_behind(path) as found:
                assert found is None, "its owner lives"
            with pytest.raises(BlockingIOError):
                own(path)
        finally:
            owner.send_signal(signal.SIGKILL)
    assert not is_owned(path)
    with left_behind(path) as found:
        assert found is not None
        assert os.pread(found, 100, 0) == b"spent: 7"
        assert is_owned(path), "nobody else takes it meanwhile"


def test_where_there_is_no_file_nothing_was_left(tmp_path: Path) -> None:
    with left_behind(tmp_path / "absent") as found:
        assert found is None
    assert not is_owned(tmp_path / "absent")


def test_what_a_reader_raises_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "torn"
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match="torn"), left_behind(path):
        raise ValueError("torn")
    os.close(own(path))
