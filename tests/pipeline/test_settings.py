"""The environment is read once, into values that nothing changes afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.settings import current, read_again

_NAMES = ("TANDEM_HOME", "TANDEM_SPOOL", "TANDEM_TASK_QUEUE", "TEMPORAL_ADDRESS", "TEMPORAL_PROFILE",
          "TEMPORAL_CONFIG_FILE")  # fmt: skip


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _NAMES:
        monkeypatch.delenv(name, raising=False)


def test_without_variables_there_are_defaults(tmp_path: Path) -> None:
    assert current().home_of(tmp_path) == tmp_path / ".tandem"
    assert current().spool_folder.name.startswith("tandem-spool-")
    assert current().spend_folder == current().spool_folder / "purses"
    assert current().task_queue == "tandem"
    assert not current().temporal_configured


def test_variables_are_taken_and_empty_ones_are_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("TANDEM_HOME", "~/there"), ("TANDEM_SPOOL", ""), ("TANDEM_TASK_QUEUE", "mine")):
        monkeypatch.setenv(name, value)
    assert current().home_of(tmp_path) == Path.home() / "there"
    assert current().spool_folder.name.startswith("tandem-spool-")
    assert current().task_queue == "mine"


@pytest.mark.parametrize("name", ["TEMPORAL_ADDRESS", "TEMPORAL_PROFILE"])
def test_a_temporal_is_configured_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    assert current().temporal_configured


def test_a_configuration_file_counts_where_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "temporal.toml"))
    assert not current().temporal_configured
    (tmp_path / "temporal.toml").write_text("")
    assert current().temporal_configured


def test_they_are_read_once_and_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = current()
    monkeypatch.setenv("TANDEM_TASK_QUEUE", "later")
    assert current() is before
    with pytest.raises(ValidationError, match="frozen"):
        before.task_queue = "other"  # type: ignore[misc]
    assert read_again().task_queue == "later"
