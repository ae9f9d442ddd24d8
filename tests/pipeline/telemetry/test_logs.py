"""Records of logs: what a line of a child becomes, and what of an exception is told."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.telemetry import logs
from pipeline.telemetry.logs import RecordHandler, RecordStream, SafeFormatter

SECRET = "row text 4711"


class Written(RecordStream):
    """A stream whose records are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []

    def write(self, line: bytes) -> None:
        self.found.append(json.loads(line))


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.Logger("tandem.test")  # beside the tree of loggers
    yield found
    found.handlers.clear()


def fails() -> None:
    try:
        raise KeyError(SECRET)
    except KeyError as exc:
        raise ValueError(SECRET) from exc


def log_failure(logger: logging.Logger) -> None:
    try:
        fails()
    except ValueError:
        logger.exception("it failed")


def test_an_exception_is_told_by_its_class_and_place_in_both_forms(logger: logging.Logger) -> None:
    lines: list[bytes] = []
    logger.addHandler(RecordHandler(lines.append, {"process": "worker 1"}))
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(SafeFormatter("%(message)s"))
    logger.addHandler(handler)
    log_failure(logger)
    assert SECRET not in text.getvalue()
    assert text.getvalue().startswith("it failed\n  test_logs.py:")
    assert text.getvalue().endswith("ValueError\n")
    found = json.loads(lines[0])
    assert SECRET not in str(found)
    assert (found["error"]["type"], found["error"]["cause"], found["process"]) == ("ValueError", "KeyError", "worker 1")
    assert [place.rpartition(" in ")[2] for place in found["error"]["traceback"]] == ["log_failure", "fails"]


def test_what_asyncio_logs_of_a_lost_exception_is_its_first_line() -> None:
    lines: list[bytes] = []
    entry = logging.LogRecord(
        "asyncio", logging.ERROR, "f", 1, f"Task exception was never retrieved\nfuture: {SECRET}", (), None
    )
    RecordHandler(lines.append, {}).handle(entry)
    assert json.loads(lines[0])["message"] == "Task exception was never retrieved"


def test_a_long_message_is_cut_so_that_a_record_stays_one_line() -> None:
    assert len(logs.record("info", "x" * 100_000)) < 8_192


def test_lines_of_a_child_are_records_or_become_some() -> None:
    written = Written()
    written.about(run="r1")
    entry = logs.record("warning", "logged", run="r2", batch=3).decode()
    written.child_line("worker 2", "stdout", "printed")
    written.child_line("worker 2", "stderr", f"{written.mark}{entry}")
    written.child_line("worker 2", "stderr", f"no end of line{written.mark}{entry}")
    written.child_line("worker 2", "stderr", f"{written.mark}{entry[:20]}")
    written.child_line("worker 2", "stderr", entry)
    printed, whole, before, after, torn, forged = written.found
    assert (printed["message"], printed["stream"], printed["process"], printed["run"]) == (
        "printed", "stdout", "worker 2", "r1",
    )  # fmt: skip
    for record in (whole, after):
        assert (record["message"], record["run"], record["batch"], record["process"]) == ("logged", "r2", 3, "worker 2")
        assert list(record)[:3] == ["time", "level", "message"]
    assert before["message"] == "no end of line"
    assert (torn["stream"], forged["stream"], forged["message"]) == ("stderr", "stderr", entry)
