"""A temporary folder that nobody uses is never made, and one that is used is gone afterwards."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from pipeline.stores.scratch_folder import ScratchFolder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_made_when_it_is_first_used_and_removed_at_the_end(temporary: Path) -> None:
    with ScratchFolder() as folder:
        assert list(temporary.iterdir()) == []
        (folder / "one").write_text("1")
        assert folder / "one" == folder.path / "one"
        assert [path.name[:7] for path in temporary.iterdir()] == ["tandem-"]
    assert list(temporary.iterdir()) == []


def test_it_is_removed_after_a_failure(temporary: Path) -> None:
    with pytest.raises(ZeroDivisionError), ScratchFolder() as folder:  # noqa: PT012
        folder.path.joinpath("one").mkdir()
        1 / 0  # noqa: B018
    assert list(temporary.iterdir()) == []
