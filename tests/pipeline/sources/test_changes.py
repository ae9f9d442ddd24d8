"""Changes of a source are noticed, and it is read at most twice."""

import datetime as dt
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from pipeline.process_state import STATE
from pipeline.sources import encoding, listing, readers, snapshot
from pipeline.sources.split import snapshot_of
from pipeline.stores import LocalStore
from schemas.errors import InputChanged
from schemas.staging import RowRange
from tests.pipeline.sources.reading import frames, rows, save, snap, spec_of, write


class Counted:
    """Bytes that were read of the source, through `open_file`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        self.real = listing.open_file
        for module in (readers, snapshot, encoding):
            patch.setattr(module, "open_file", self.open)
        STATE.forget()

    def open(self, file: Any) -> Any:
        real = self.real(file)
        counted = self

        class Reader:
            closed = False

            def read(self, size: int = -1) -> bytes:
                data: bytes = real.read() if size is None or size < 0 else real.read(size)
                counted.bytes += len(data)
                return data

            def seek(self, offset: int, whence: int = 0) -> int:
                return int(real.seek(offset, whence))

            def tell(self) -> int:
                return int(real.tell())

            def readable(self) -> bool:
                return True

            def seekable(self) -> bool:
                return True

            def close(self) -> None:
                real.close()

        return pa.PythonFile(Reader(), mode="r")


def numbered(count: int) -> dict[str, list[Any]]:
    return {
        "t": [dt.date(2026, 1, 1) + dt.timedelta(days=n // (count // 20)) for n in range(count)],
        "v": [f"{n} {hashlib.sha256(str(n).encode()).hexdigest()}" for n in range(count)],
    }


@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet", "large groups", "mixed"])
def test_a_source_is_read_at_most_twice_whatever_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    data = numbered(40_000)
    path = tmp_path / {"csv": "in.csv", "ndjson": "in.ndjson"}.get(kind, "in.parquet")
    if kind in ("csv", "ndjson"):
        save(pl.DataFrame(data), path, kind)
    else:
        data["t"] = [data["t"][n * 503 % 40_000] for n in range(40_000)] if kind == "mixed" else data["t"]
        write(path, data, row_group_size=40_000 if kind == "large groups" else 4_000)
    counted = Counted(monkeypatch)
    found = snap(tmp_path, path.name, {"by": "time", "column": "t"})
    read = frames(found, batch=100)
    assert sum(frame.height for frame in read.values()) == 40_000
    assert counted.bytes <= 2 * path.stat().st_size + 256 * 1024  # and footers


def test_a_listing_that_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.csv").write_text("a\n1\n")
    first = snap(tmp_path, "in.csv")
    counted = Counted(monkeypatch)
    STATE.forget()
    again = snap(tmp_path, "in.csv")
    assert counted.bytes == 0
    assert again.info == first.info
    assert again.entries.equals(first.entries)
    os.utime(tmp_path / "in.csv", ns=(1, 1))
    assert snap(tmp_path, "in.csv").info.key != first.info.key
    assert counted.bytes > 0


def test_a_referenced_file_that_changes_is_noticed_at_every_read(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", {"a": [1, 2, 3]})
    found = snap(tmp_path, "in.parquet")
    key = found.partitions[0]
    assert found.read(key, found.entry(key).ranges).height == 3
    write(tmp_path / "in.parquet", {"a": [4, 5, 6, 7]})
    with pytest.raises(InputChanged, match=r"in\.parquet changed after it was planned"):
        found.read(key, found.entry(key).ranges)
    (tmp_path / "in.parquet").unlink()
    with pytest.raises(InputChanged):
        found.read(key, found.entry(key).ranges)


def test_a_staged_snapshot_does_not_need_its_source_any_more(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a\n1\n2\n")
    found = snap(tmp_path, "in.csv")
    (tmp_path / "in.csv").write_text("a\n9\n")
    STATE.forget()
    assert rows(found) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("name", ["in.csv", "in.ndjson", "in.parquet"])
def test_a_file_that_changes_while_it_is_split_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    save(pl.DataFrame({"a": range(100)}), path, path.suffix[1:])

    def touch(count: int) -> None:
        os.utime(path, ns=(count + 5, 5))

    with pytest.raises(InputChanged):
        snapshot_of(spec_of(name), tmp_path, LocalStore(tmp_path / "_out"), pinned={}, note=touch)


def test_ranges_across_groups_and_files_are_read_in_order(tmp_path: Path) -> None:
    for at in range(3):
        write(tmp_path / f"in/{at}.parquet", {"v": list(range(at * 100, at * 100 + 100))}, row_group_size=30)
    found = snap(tmp_path, "in", {"by": "rows", "rows": 1000})
    (key,) = found.partitions
    ranges = [
        RowRange(file=0, start=25, rows=40),
        RowRange(file=2, start=0, rows=0),
        RowRange(file=1, start=99, rows=1),
    ]
    assert found.read(key, ranges)["v"].to_list() == [*range(25, 65), 199]
    assert found.read(key, []).schema == {"v": pl.Int64}
    with pytest.raises(KeyError):
        found.entry("block=000009")


def test_an_absent_sink_folder_and_a_second_process_share_one_snapshot(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a\n1\n")
    spec, store = spec_of("in.csv"), LocalStore(tmp_path / "_out")
    found = snapshot_of(spec, tmp_path, store, pinned={})
    code = (
        "import sys; from pipeline.sources.snapshot import load; from pipeline.stores import open_store;"
        "s = load(open_store(sys.argv[1]), sys.argv[2]); (key,) = s.partitions;"
        "print(s.read(key, s.entry(key).ranges).to_dicts())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "_out"), found.info.key], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[{'a': 1}]"


MEMORY = """
import resource, sys
from pathlib import Path
from tests.pipeline.sources.reading import save, spec_of
from pipeline.sources.split import snapshot_of
from pipeline.stores import LocalStore
base = Path(sys.argv[1])
by = {"by": "time", "column": "t"}
snapshot_of(spec_of("small.csv", by), base, LocalStore(base / "_out"), pinned={})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = snapshot_of(spec_of("large.csv", by), base, LocalStore(base / "_out"), pinned={})
print(found.info.rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_large_csv_is_split_in_little_memory(tmp_path: Path) -> None:
    body = "a body of some sixty characters, as long as a short ticket is"
    with (tmp_path / "large.csv").open("w") as file:
        file.write("id,t,body\n")
        file.writelines(f'{n},2026-{1 + n % 12:02d}-{1 + n % 28:02d},"{body} {n}"\n' for n in range(300_000))
    (tmp_path / "small.csv").write_text("id,t,body\n1,2026-01-01,x\n")
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    count, megabytes = map(int, out.stdout.split())
    assert count == 300_000
    assert megabytes < 200
