"""Readers that look all the time while a partition is published again and again, and publishing is killed."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Project, rows, write_csv
from tests.faults.reader import EVERY_S, Polling

ROWS = 60
WHOLE = list(range(ROWS))


@pytest.fixture(params=["parquet", "delta", "iceberg"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    project = Project.make(tmp_path, count=ROWS)
    project.spec["sink"] = {"path": "out", **({} if request.param == "parquet" else {"format": request.param})}
    project.write()
    return project


def keys_of(project: Project) -> list[int]:
    """The keys that the table's own reader sees."""
    if project.spec["sink"]["format"] == "delta":
        from deltalake import DeltaTable

        table: Any = DeltaTable(str(project.folder / "out/data")).to_pyarrow_table(columns=["id"])
    else:
        from pyiceberg.catalog.sql import SqlCatalog

        catalog = SqlCatalog("tandem", uri=f"sqlite:///{project.folder}/out/_tandem/iceberg.db")
        table = catalog.load_table("tandem.tickets").scan(selected_fields=("id",)).to_arrow()
    return sorted(table["id"].to_pylist())


@contextmanager
def looking(read: Callable[[], list[int]]) -> Iterator[list[list[int]]]:
    """What was seen that was not the whole, in a thread that looks as often as the other reader."""
    stop, wrong, looks = threading.Event(), list[list[int]](), 0

    def look() -> None:
        nonlocal looks
        while not stop.is_set():
            seen = read()
            looks += 1
            if seen != WHOLE:
                wrong.append(seen)
            time.sleep(EVERY_S)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        thread.join()
    assert looks > 5


@pytest.mark.timeout(900)
@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.prove)])
def test_readers_see_whole_generations_through_republications_and_kills(project: Project, times: int) -> None:
    """Every second command is killed at a moment of chance, and given again."""
    chance = random.Random(project.folder.name)
    project.tandem("run", "--json").ok()

    def republish() -> None:
        for time_ in range(times):
            write_csv(project.folder / "rows.csv", rows(ROWS, note=f"v{time_}-"))
            if time_ % 2 == 0:
                with project.start("run", "--json") as killed:
                    time.sleep(chance.uniform(1.0, 4.0))
                    killed.end(signal.SIGKILL)
            report = project.tandem("run", "--json").ok().json
            assert report["rows"]["out"] in (0, ROWS)  # 0: the killed one came that far

    if "format" not in project.spec["sink"]:
        with Polling.start(str(project.folder / "out"), "id") as polling:
            republish()
        seen = polling.seen
        assert (seen.partial, seen.missing, seen.duplicates) == ((), (), ())
        assert seen.polls > 5
    else:
        with looking(lambda: keys_of(project)) as wrong:
            republish()
        assert not wrong
