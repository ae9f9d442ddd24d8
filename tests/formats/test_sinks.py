"""Sinks that 6e8043d wrote are read, planned, retried and published anew under this version, and nothing is paid twice.

Nobody listens where the model was, but in the one test that asks it. What is in the sinks is told by `make_sink.py`.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from pipeline import consume
from tests.formats import kept
from tests.formats.kept import Kept
from tests.harness.servers import TemporalServer

# Seconds on a quiet machine; this is for one on which ten others work.
pytestmark = pytest.mark.timeout(900)
DAY = "day=2026-11-0"
UP_TO_DATE = tuple(part for day in "123" for part in ("--partition", f"{DAY}{day}"))


@pytest.fixture
def tickets(tmp_path: Path, temporal_server: TemporalServer) -> Kept:
    return opened("tickets", tmp_path, temporal_server)


def opened(name: str, folder: Path, server: TemporalServer) -> Kept:
    """A kept sink, with a worker in each command that works: quicker than an embedded server for each."""
    found = kept.unpack(name, folder)
    found.project.env |= {**server.env(), "TANDEM_TASK_QUEUE": f"formats-{folder.name}"}
    return found


def ran(found: Kept, *options: str) -> Any:
    return found.project.tandem("run", *options, "--with-worker", "--yes", "--json", timeout_s=300).ok().json


def check_rows(found: Kept, partitions: set[str]) -> None:
    """The same rows, one generation later."""
    now, then = kept.data(found.sink), found.told["data"]
    for partition in partitions:
        assert now[partition] == {**then[partition], "generation": then[partition]["generation"] + 1}, partition


def check_bytes(found: Kept, partitions: set[str]) -> None:
    """The same bytes, where the same library writes them."""
    check_rows(found, partitions)
    if importlib.metadata.version("pyarrow") == found.told["written_by"]["pyarrow"]:
        then, now = found.told["data_bytes"], kept.data_bytes(found.sink)
        assert {key: now[key] for key in partitions} == {key: then[key] for key in partitions}


@pytest.mark.parametrize("name", ["tickets", "reviews", "lake"])
def test_all_that_is_told_of_a_sink_is_what_was_told_then(name: str, tmp_path: Path) -> None:
    found = kept.unpack(name, tmp_path)
    now = kept.told(found.project, found.told["runs_shown"])
    then = {key: value for key, value in found.told.items() if key in now}
    assert len(then) == len(found.told) - 2, "all but who wrote it, and how"
    if importlib.metadata.version("polars") != found.told["written_by"]["polars"]:
        then.pop("columns")  # as this library spells types
    if name == "reviews":  # rows of another partition's journal, where that version did not look
        assert (then.pop("calls"), now["calls"]) == ([4, 4], [0, 0])
    assert list(kept.differences(then, now)) == []


def test_what_is_up_to_date_is_published_anew_for_nothing(tickets: Kept) -> None:
    report = ran(tickets, "--reprocess", "all", *UP_TO_DATE)
    assert (report["partitions"]["published"], report["usage"]["calls"]) == (3, 0)
    assert (report["rows"]["rejected"], report["rows"]["pending"]) == (2, 3)
    check_bytes(tickets, {f"{DAY}{day}" for day in "123"})

    tickets.edit("Sort this ticket:", "Sort this one:")  # a prompt of an earlier generation, which the journal knows
    verified, plan = kept.answers(
        tickets.project, [("outputs", "verify"), ("plan", "--partition", f"{DAY}1")]
    )  # fmt: skip
    assert (verified["ok"], verified["problems"]) == (True, [])
    assert ([line["decision"] for line in plan["partitions"]], plan["estimate"]["calls"]) == (["run"], [0, 0])


def test_what_people_answer_now_is_published_for_nothing(tickets: Kept) -> None:
    rows = {row["id"] for question in tickets.told["questions"] for row in [question["key"]]}
    assert rows == {0, 2, 9}
    told = kept.answers(tickets.project, [("review", "answer", "--row", str(row), "--answer", "yes") for row in rows])
    assert [line["answered"] for line in told] == [1, 1, 1]
    report = ran(tickets, *UP_TO_DATE)
    assert (report["rows"]["pending"], report["usage"]["calls"], report["partitions"]["published"]) == (0, 0, 3)
    replies = dict(consume.scan(tickets.sink).select("id", "reply").collect().iter_rows())
    assert [replies[row] for row in (0, 1, 2, 3, 9)] == ["yes", "yes", "yes", "only half", "yes"]


def test_rejected_rows_and_a_cancelled_run_ask_for_what_is_missing_alone(tmp_path: Path) -> None:
    """Two rows are in rejects of a generation, three in those of a run that failed; of the cancelled run one row was
    not answered. With the embedded server, as on the first day."""
    tickets = kept.unpack("tickets", tmp_path)
    assert len({line["row_id"] for line in tickets.told["rejected_rows"]}) == 5
    with kept.model_at_its_port() as server:
        retried = tickets.project.tandem("rejects", "retry", "--yes", "--json", timeout_s=300).ok().json
        asked = [call.message for call in server.calls()]
        assert all("poison" in message for message in asked), asked
        assert (len(asked), len(set(asked))) == (10, 10), "two stages of five rows"
        assert (retried["rows"]["rejected"], retried["usage"]["calls"]) == (0, 15), "and the offline model's"
        assert sorted(consume.partitions(tickets.sink)) == [f"{DAY}{day}" for day in "12345"]

        server.reset()
        report = tickets.project.tandem("run", "--partition", f"{DAY}4", "--yes", "--json", timeout_s=300).ok().json
        asked = sorted(call.message for call in server.calls())
    assert asked == [f"{what}: message number 42 of 3 about a thing" for what in ("Reply to", "Sort this ticket")]
    assert (report["rows"]["ok"], report["usage"]["calls"]) == (13, 3)


def test_a_table_of_text_goes_on_from_partly_published_and_from_gone(
    tmp_path: Path, temporal_server: TemporalServer
) -> None:
    found = opened("reviews", tmp_path, temporal_server)
    report = ran(found, "--reprocess", "all")
    assert (found.told["calls"], report["usage"]["calls"]) == ([4, 4], 0), "other partitions have the answers"
    assert (report["partitions"]["published"], report["rows"]["in"]) == (2, 16)
    check_rows(found, {"month=2026-08"})
    assert kept.data(found.sink)["month=2026-10"] == found.told["data"]["month=2026-10"], "gone, and kept"
    with_provenance = consume.scan(found.sink, "month=2026-08").collect()
    assert set(with_provenance["tandem_generation"]) == {3}


def test_a_delta_table_goes_on(tmp_path: Path, temporal_server: TemporalServer) -> None:
    found = opened("lake", tmp_path, temporal_server)
    before = DeltaTable(found.sink / "data").version()
    report = ran(found, "--reprocess", "all")
    assert (report["partitions"]["published"], report["usage"]["calls"]) == (2, 0)
    check_bytes(found, set(found.told["data"]))
    table = DeltaTable(found.sink / "data")
    assert table.version() > before
    assert table.to_pyarrow_table().num_rows == sum(then["rows"] for then in found.told["data"].values())
