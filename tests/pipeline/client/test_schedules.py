"""Schedules on a real server: what is applied, when it fires, and what firings that were missed come to."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from temporalio.client import Client, ScheduleBackfill, ScheduleOverlapPolicy
from temporalio.contrib.pydantic import pydantic_data_converter

from pipeline.client import schedules
from pipeline.client.connection import Connection
from pipeline.client.schedules import ScheduleFlags
from pipeline.journal import usage
from pipeline.runs.report import load_report
from pipeline.runs.requests import load_request
from pipeline.sinks import commits
from pipeline.stores import Store, open_store
from pipeline.worker import working
from schemas import ids
from schemas.errors import UsageError
from schemas.messages.partition import OpenRequest
from schemas.messages.schedule import FiringDecision, FiringRequest, ScheduledResult, ScheduleTerms
from schemas.spec.sections import Spec
from tests.harness.servers import TemporalServer
from tests.pipeline.fakes import Fakes, at_work, failed, planned, until

HOURLY = ScheduleTerms(cron="0 * * * *", time_zone="Europe/Paris", jitter="5m")


async def connected(server: TemporalServer) -> Client:
    return await Client.connect(server.address, data_converter=pydantic_data_converter)


def spec_of(**changed: Any) -> Spec:
    return Spec.model_validate(
        {
            "name": "tests", "source": {"path": "*.parquet"}, "partition": {"by": "time", "column": "at"},
            "stages": [
                {
                    "name": "triage", "uses": "extract", "model": "offline:lexical", "prompt": "{{ text }}",
                    "output": {"summary": "str"},
                }
            ],
            "sink": {"path": "out"}, **changed,
        }
    )  # fmt: skip


@asynccontextmanager
async def applied(client: Client, store: Store, queue: str, spec: Spec, terms: ScheduleTerms) -> AsyncIterator[str]:
    """A schedule on a queue of the test's own, taken away at its end."""
    base = str(Path(store.uri).parent)
    found = await schedules.apply(_engine(client, queue), store, spec, base, terms)
    try:
        yield found.id
    finally:
        await client.get_schedule_handle(found.id).delete()


def _engine(client: Client, queue: str) -> Connection:
    class OnQueue(Connection):
        def queue(self, pipeline: str) -> str:
            return queue

    return OnQueue(client, None, None, True)


# What is applied ----------------------------------------------------------------------------------------------------


async def test_the_same_again_changes_nothing_and_what_differs_is_told(
    temporal_server: TemporalServer, tmp_path: Path
) -> None:
    client, store, spec = await connected(temporal_server), open_store(str(tmp_path / "out")), spec_of()
    engine = _engine(client, "nobody")
    async with applied(client, store, "nobody", spec, HOURLY) as schedule:
        again = await schedules.apply(engine, store, spec, str(tmp_path), HOURLY)
        assert (again.created, again.changes) == (False, ())
        await client.get_schedule_handle(schedule).pause(note="holiday")
        other = spec_of(limits={"rows_in_flight": 3})
        changed = await schedules.apply(engine, store, other, str(tmp_path), HOURLY.model_copy(update={"jitter": "0s"}))
        assert [(c.name, c.before, c.after) for c in changed.changes] == [
            ("jitter", "5m", "0s"),
            ("spec.limits", "as it was", "changed"),
        ]
        there = await schedules.find(client, schedule)
        assert there is not None
        assert (there.inputs.terms.jitter, there.paused, there.note) == ("0s", True, "holiday")
        assert schedules.spec_changes(store, there.inputs.spec, spec) == ["limits"]
        bad = HOURLY.model_copy(update={"cron": "61 * * * *"})
        with pytest.raises(UsageError, match=re.escape("'61 * * * *' (Europe/Paris): Minute is not in range [0-59].")):
            await schedules.apply(engine, store, spec, str(tmp_path), bad)
    assert await schedules.find(client, schedule) is None


async def test_a_month_of_hours_is_told_as_the_clock_of_the_zone_shows_them(
    temporal_server: TemporalServer, tmp_path: Path
) -> None:
    """With its 743 hours in March; in October an hour that the clock shows twice fires once; each with its jitter."""
    client, store = await connected(temporal_server), open_store(str(tmp_path / "out"))
    zone = dt.timezone(dt.timedelta(hours=1))
    async with applied(client, store, "nobody", spec_of(), HOURLY) as schedule:
        for month, hours in ((3, 743), (10, 744)):
            start = dt.datetime(2027, month, 1, tzinfo=zone) - dt.timedelta(hours=month == 10, seconds=1)
            end = dt.datetime(2027, month + 1, 1, tzinfo=zone) - dt.timedelta(hours=month == 3)
            times = await schedules.next_times(client, schedule, 800, start)
            assert len([when for when in times if start < when < end]) == hours
            assert len(set(times)) == 800
            assert all(
                when - when.replace(minute=0, second=0, microsecond=0) < dt.timedelta(minutes=5) for when in times
            )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"overlap": "never"}, "--overlap-policy never: not one of"),
        ({"jitter": "soon"}, "--jitter soon: not a duration"),
        ({"zone": "Mars/Olympus"}, "--time-zone Mars/Olympus: not an IANA time zone."),
        ({"cron": None}, "The spec of 'tests' has no schedule."),
    ],
)
def test_terms_that_cannot_be(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        schedules.terms_of(spec_of(), ScheduleFlags(**{"cron": "0 3 * * *", **given}))


def test_terms_come_from_the_spec_and_flags_win() -> None:
    spec = spec_of(schedule={"cron": "0 3 * * *", "zone": "Europe/Paris", "overlap": "buffer_one", "lookback": "14d"})
    said = schedules.terms_of(spec, ScheduleFlags(overlap="CancelOther", catchup="90m", pause_on_failure=True))
    assert said == ScheduleTerms(
        cron="0 3 * * *", time_zone="Europe/Paris", overlap_policy="cancel_other", catchup_window="90m", jitter="0s",
        lookback="2w", pause_on_failure=True,
    )  # fmt: skip
    assert schedules.terms_of(spec_of(), ScheduleFlags(when="new-files")).cron == "* * * * *"


# Firing -------------------------------------------------------------------------------------------------------------


async def test_firings_of_a_weekend_with_a_clock_change_follow_one_another(
    temporal_server: TemporalServer, tmp_path: Path
) -> None:
    """Each firing's interval begins where the one before ended; its time is the scheduled one, whatever the jitter."""
    client, store = await connected(temporal_server), open_store(str(tmp_path / "out"))
    fakes = Fakes()
    asked: list[FiringRequest] = []

    async def ask(request: FiringRequest, nth: int) -> FiringDecision:
        asked.append(request)
        return FiringDecision(note="nothing to do")

    fakes.on["ask"] = ask
    start, end = dt.datetime(2026, 10, 24, 22, tzinfo=dt.UTC), dt.datetime(2026, 10, 25, 4, tzinfo=dt.UTC)
    hours = [start + dt.timedelta(hours=n) for n in range(7)]
    terms = HOURLY.model_copy(update={"overlap_policy": "buffer_all"})
    async with (
        at_work(client, fakes) as bench,
        applied(client, store, bench.queue, spec_of(), terms) as it,
    ):
        past = ScheduleBackfill(
            start_at=start - dt.timedelta(seconds=1),
            end_at=end + dt.timedelta(minutes=10),
            overlap=ScheduleOverlapPolicy.BUFFER_ALL,
        )
        await client.get_schedule_handle(it).backfill(past)
        await until(lambda: len(asked) == len(hours) - 1, 60)
    times = [request.at for request in asked]
    assert times == sorted(set(times) & set(hours)), "the hour that the clock shows twice fires once"
    assert [request.since for request in asked] == [None, *times[:-1]]


async def test_a_failed_run_pauses_its_schedule_where_that_is_asked_for(
    temporal_server: TemporalServer, tmp_path: Path
) -> None:
    client, store = await connected(temporal_server), open_store(str(tmp_path / "out"))

    async def broken(request: OpenRequest, nth: int) -> None:
        raise failed("InputChanged", "the source moved")

    async def ask(request: FiringRequest, nth: int) -> FiringDecision:
        return FiringDecision(run="scheduled-1")

    fakes = Fakes([planned("day=2026-11-01")], on={"open": broken, "ask": ask})
    terms = ScheduleTerms(cron="0 0 1 1 *", pause_on_failure=True)
    async with at_work(client, fakes) as bench, applied(client, store, bench.queue, spec_of(), terms) as schedule:
        await client.get_schedule_handle(schedule).trigger()
        async with asyncio.timeout(30):
            while not (found := await schedules.find(client, schedule)) or not found.paused:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert "failed" in found.note.lower() or found.note


# The real thing -----------------------------------------------------------------------------------------------------


@contextmanager
def own_server(folder: Path) -> Iterator[TemporalServer]:
    with TemporalServer.start(folder / "temporal") as server:
        yield server


def add_day(folder: Path, ago: int) -> str:
    """Ten rows of a day that is over; returns its partition."""
    day = dt.datetime.now(dt.UTC).replace(hour=3, minute=0, second=0, microsecond=0, tzinfo=None) - dt.timedelta(
        days=ago
    )
    frame = pl.DataFrame({"text": [f"message {n} of {ago}" for n in range(10)], "at": [day] * 10})
    frame.write_parquet(folder / f"{ago}.parquet.part")
    (folder / f"{ago}.parquet.part").rename(folder / f"{ago}.parquet")
    return f"day={day:%Y-%m-%d}"


def published(store: Store) -> dict[str, int]:
    """Partition → its current generation."""
    keys = {parsed[0] for info in store.list(ids.COMMITS) if (parsed := ids.parse_commit(info.key))}
    return {key: found.generation for key in keys if (found := commits.current(store, key))}


async def results(client: Client, store: Store) -> list[ScheduledResult]:
    prefix = ids.scheduled_workflow_id("tests", store.uri)
    found: list[ScheduledResult] = []
    async for execution in client.list_workflows(
        "WorkflowType = 'ScheduledWorkflow' AND ExecutionStatus = 'Completed'"
    ):
        if execution.id.startswith(prefix):
            found.append(await client.get_workflow_handle(execution.id, result_type=ScheduledResult).result())
    return sorted(found, key=lambda result: result.at)


@pytest.mark.timeout(900)
async def test_what_a_dead_server_missed_is_published_afterwards_and_nothing_twice(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    days = [add_day(tmp_path, 2), add_day(tmp_path, 3)]
    with own_server(tmp_path) as server:
        client = await connected(server)
        every_two_s = ScheduleTerms(cron="*/2 * * * * * *", overlap_policy="skip", catchup_window="10s")
        async with working(client, "q"), applied(client, store, "q", spec_of(), every_two_s):
            await until(lambda: set(published(store)) == set(days), 60)
            server.kill()
            days += [add_day(tmp_path, 1), add_day(tmp_path, 4), add_day(tmp_path, 5)]
            await asyncio.sleep(7)  # over three firings
            server.restart()
            await until(lambda: set(published(store)) == set(days), 60)
            fired = await results(await connected(server), store)
            async with asyncio.timeout(60):
                while all(result.run for result in fired):  # and one firing more
                    await asyncio.sleep(1)
                    fired = await results(await connected(server), store)
    assert set(published(store).values()) == {1}, "none twice"
    assert sum(usage.usage_of_run(store, key, run).calls for key in days for run in _runs(store)) == 50
    ran = [result for result in fired if result.run]
    assert len(ran) < len(fired), "a firing without anything to do makes no run"
    for result in ran:
        request, report = load_request(store, result.run), load_report(store, result.run)
        assert request is not None
        assert request.selection.due is not None
        assert request.selection.due.at == result.at
        assert f"{result.at:%Y%m%dT%H%M%SZ}" in result.run
        assert report is not None
        assert report.state == "completed"


def _runs(store: Store) -> list[str]:
    return list(store.folders(ids.RUNS))


@pytest.mark.timeout(900)
async def test_new_files_are_found_and_only_what_they_change_is_run(
    temporal_server: TemporalServer, tmp_path: Path
) -> None:
    client, store = await connected(temporal_server), open_store(str(tmp_path / "out"))
    terms = ScheduleTerms(cron="* * * * * * *", when="new-files", lookback="4d")
    spec = spec_of(source={"path": "*.parquet", "settle": "1s"})
    async with working(client, "files"), applied(client, store, "files", spec, terms):
        await asyncio.sleep(2)  # nothing is there yet, which is no failure
        today, old = add_day(tmp_path, 0), add_day(tmp_path, 9)
        await until(lambda: set(published(store)) == {today}, 60)
        late = add_day(tmp_path, 2)
        await until(lambda: set(published(store)) == {today, late}, 60)
        await asyncio.sleep(3)
        fired = await results(client, store)
    assert published(store) == {today: 1, late: 1}
    assert old not in published(store), "older than the lookback"
    ran = [result for result in fired if result.run]
    assert [result.run.startswith("new-files-") for result in ran] == [True, True]
    assert any(result.note == "no file is new or changed" for result in fired)
    assert all(result.state == "completed" for result in fired)


@pytest.mark.timeout(900)
async def test_a_file_that_is_appended_is_published_once_and_whole(
    temporal_server: TemporalServer, tmp_path: Path
) -> None:
    """Firings while it is written take the other file, and leave its half-written line alone."""
    client, store = await connected(temporal_server), open_store(str(tmp_path / "out"))
    terms = ScheduleTerms(cron="* * * * * * *", when="new-files")
    spec = spec_of(source={"path": "*.csv"}, partition={"by": "files"})
    still, growing = tmp_path / "a.csv", tmp_path / "b.csv"
    still.write_text("id,text\n1,one\n")
    os.utime(still, (1e9, 1e9))
    growing.write_text("id,text\n")
    async with working(client, "grows"), applied(client, store, "grows", spec, terms):
        number = 0
        while set(published(store)) != {"file=a.csv"}:
            number += 1
            with growing.open("a") as stream:
                stream.write(f"{number},mess")
                stream.flush()
                await asyncio.sleep(0.2)
                stream.write(f"age number {number}\n")
        with growing.open("a") as stream:
            stream.write(f"{number + 1},the last\n")
        await until(lambda: set(published(store)) == {"file=a.csv", "file=b.csv"}, 120)
        fired = await results(client, store)
    assert set(published(store).values()) == {1}
    assert sum(usage.usage_of_run(store, "file=b.csv", run).calls for run in _runs(store)) == number + 1
    assert all(result.state == "completed" for result in fired)
    assert any("b.csv changed at" in result.note for result in fired if result.run), "the run's firing names the file"
