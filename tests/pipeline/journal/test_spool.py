"""Records on this machine's disk: a killed process loses only what was in flight, a live one is left alone."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline.journal.spool import Spools
from stages.journal.records import CallRecord, encode_record
from stages.journal.segments import line_of
from tests.harness.processes import ROOT
from tests.pipeline.journal.test_journal import call

KEY = ("memory://sink", "run-1", "day=2026-11-01", 3)
WRITER = """
import asyncio, sys
from pathlib import Path
from pipeline.journal.spool import Spools
from stages.journal.writer import Journal
from stages.journal.known import Known
from tests.pipeline.journal.test_journal import call, row

async def main():
    async def away(data):
        raise OSError("away")
    journal = Journal(away, known=Known(), flush_s=999, spool=Spools(Path(sys.argv[1])).open(*{key!r}))
    await journal.append(row("done"))
    answered, out, refused = call("answered"), call("out", raw=None), call("refused", raw=None)
    for sent in (answered, out, refused):
        journal.sending(sent)
    journal.note(answered)
    journal.unbilled(refused.nonce)
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_a_killed_process_leaves_its_records_and_a_live_one_is_not_touched(tmp_path: Path) -> None:
    spools = Spools(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(key=KEY), str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (spool,) = tmp_path.iterdir()
        assert spools.left_by_the_dead(*KEY) == []
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    finally:
        process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()
    assert spools.left_by_the_dead("memory://other", *KEY[1:]) == []
    assert spools.left_by_the_dead(*KEY[:3], 4) == []
    ((path, records),) = spools.left_by_the_dead(*KEY)
    assert path == spool
    calls = {record.request: record.raw for record in records if isinstance(record, CallRecord)}
    assert calls == {"answered": "{}", "out": None}, "what was in flight may have been billed; what was refused was not"
    assert len(records) == 3
    assert spools.left_by_the_dead(*KEY), "it is there until its records are stored"


def test_a_live_spool_of_the_same_process_is_not_touched(tmp_path: Path) -> None:
    spools = Spools(tmp_path)
    spool = spools.open(*KEY)
    spool.write(b"x")
    assert spools.left_by_the_dead(*KEY) == []
    spool.close(whole=False)
    assert len(spools.left_by_the_dead(*KEY)) == 1


def test_a_spool_whose_records_are_in_the_store_leaves_nothing(tmp_path: Path) -> None:
    spool = Spools(tmp_path).open(*KEY)
    spool.write(b"x")
    assert len(list(tmp_path.iterdir())) == 1
    spool.close(whole=True)
    assert list(tmp_path.iterdir()) == []


def test_a_spool_without_a_line_is_no_file(tmp_path: Path) -> None:
    spool = Spools(tmp_path).open(*KEY)
    spool.replace([])
    spool.close(whole=False)
    assert list(tmp_path.iterdir()) == []


def test_what_is_replaced_is_gone(tmp_path: Path) -> None:
    spools = Spools(tmp_path)
    spool = spools.open(*KEY)
    spool.write(b"before")
    spool.replace([b"one", b"two"])
    spool.close(whole=False)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_disk_that_refuses_is_no_reason_not_to_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    spool = Spools(tmp_path / "file" / "folder").open(*KEY)
    spool.write(b"x")
    spool.replace([b"y"])
    spool.close(whole=False)
    assert Spools(tmp_path / "absent").left_by_the_dead(*KEY) == []
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_rows_of_a_batch_that_run_by_themselves_take_over_their_own_records_only(tmp_path: Path) -> None:
    """They run at the same time: a row whose records another row took would be paid for again."""
    spools = Spools(tmp_path)
    for row in ("aa", "bb"):
        spool = spools.open(*KEY, row=row, kept=True)
        spool.write(b"x")
        spool.close(whole=True)
    ((path, _),) = spools.left_by_the_dead(*KEY, row="aa")
    assert "-raa-" in path.name
    assert len(spools.left_by_the_dead(*KEY)) == 2, "a later attempt of the batch takes all"


SHRINKER = """
import sys
from pathlib import Path
from pipeline.journal.spool import Spools
from stages.journal.records import encode_record
from stages.journal.segments import line_of
from tests.pipeline.journal.test_journal import call

spool = Spools(Path(sys.argv[1])).open(*{key!r})
lines = [line_of(b'{{"sent":' + encode_record(call(f"call {{at}}", raw=None)) + b"}}") for at in range(64)]
for line in lines:
    spool.write(line)
print("ready", flush=True)
while True:
    spool.replace(lines)
"""


def test_a_process_that_is_killed_while_it_shrinks_its_spool_leaves_all_that_is_in_flight(tmp_path: Path) -> None:
    for number in range(12):
        folder = tmp_path / str(number)
        process = subprocess.Popen(
            [sys.executable, "-c", SHRINKER.format(key=KEY), str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(random.uniform(0.0, 0.02))
            process.send_signal(signal.SIGKILL)
        ((path, records),) = Spools(folder).left_by_the_dead(*KEY)
        assert len(records) == 64
        assert [one for one in folder.iterdir() if one != path] == []


def test_a_spool_that_is_shrunk_stays_its_owners_and_takes_further_lines(tmp_path: Path) -> None:
    spools = Spools(tmp_path)
    spool = spools.open(*KEY)
    first, second = (line_of(encode_record(call(name))) for name in ("first", "second"))
    spool.write(first)
    spool.replace([first])
    spool.write(second)
    assert spools.left_by_the_dead(*KEY) == []
    spool.close(whole=False)
    ((_, records),) = spools.left_by_the_dead(*KEY)
    assert [record.request for record in records if isinstance(record, CallRecord)] == ["first", "second"]


def test_a_disk_that_is_full_leaves_the_spool_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    spools = Spools(tmp_path)
    spool = spools.open(*KEY)
    line = line_of(encode_record(call("first")))
    spool.write(line)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, most[1]))  # of a file; what tests write beside it is smaller
    try:
        spool.replace([b"x" * 9_000_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == line + b"\n"
    spool.close(whole=True)
    assert list(tmp_path.iterdir()) == []
