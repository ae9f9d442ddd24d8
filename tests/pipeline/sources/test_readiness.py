"""Files that are still being written: which wait, for what, and how a file that is cut off is refused."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from pipeline.sources.listing import list_source
from pipeline.sources.markers import is_marker, marker_names
from pipeline.sources.readiness import Readiness, ready_files, settling
from pipeline.stores import open_store
from schemas.errors import SourceError, SpecError
from schemas.spec.durations import parse_duration
from schemas.spec.sections import Source
from tests.harness.servers import SeaweedS3
from tests.pipeline.sources.reading import refusal, rows, snap, spec_of

NOW = 1_700_000_000.0


def write(path: Path, *, ago: float = 3600, text: str = "a,b\n1,x\n") -> None:
    """Write a file that changed `ago` seconds before NOW."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (NOW - ago, NOW - ago))


def found(base: Path, *, settle: str | None = None, done: str | None = None, path: str = "in") -> Readiness:
    source = Source(path=path, settle=None if settle is None else parse_duration(settle), done=done)
    return ready_files(source, base, now=NOW)


def taken(readiness: Readiness) -> list[str]:
    return [file.relative for file in readiness.listing.files]


def waiting(readiness: Readiness) -> dict[str, str]:
    return {file.relative: file.waits_for for file in readiness.waiting}


# Settling ------------------------------------------------------------------------------------------------------------


def test_a_file_is_taken_once_it_has_stood_still_for_so_long(tmp_path: Path) -> None:
    for name, ago in (("new", 9), ("still", 10), ("old", 11)):
        write(tmp_path / "in" / f"{name}.csv", ago=ago)
    now = found(tmp_path, settle="10s")
    assert taken(now) == ["old.csv", "still.csv"]
    assert waiting(now) == {"new.csv": "changed at 2023-11-14 22:13:11 UTC and waits until it has stood still for 10s"}
    assert taken(found(tmp_path, settle="0s")) == taken(found(tmp_path)) == ["new.csv", "old.csv", "still.csv"]


def test_a_copy_with_a_time_from_the_future_is_taken_by_the_time_it_came(tmp_path: Path) -> None:
    write(tmp_path / "in/a.csv", ago=-1e9)
    here = (tmp_path / "in/a.csv").stat().st_ctime
    source = Source(path="in", settle=parse_duration("10s"))
    assert len(ready_files(source, tmp_path, now=here + 11).listing.files) == 1
    with pytest.raises(SourceError, match=r"no file is ready: a\.csv changed at"):
        ready_files(source, tmp_path, now=here + 9)


def test_new_local_files_settle_by_default_and_objects_do_not() -> None:
    assert settling(spec_of("in")).source.settle == parse_duration("10s")
    assert settling(spec_of("in", settle="0s")).source.settle == parse_duration("0s")
    assert settling(spec_of("in", settle="1m")).source.settle == parse_duration("1m")
    assert settling(spec_of("s3://bucket/in")).source.settle is None
    assert spec_of("in").source.settle is None


# Markers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pattern", "markers"),
    [
        ("a.csv", "*.ok", ["a.ok", "a.csv.ok"]),
        ("a.2026.csv.gz", "*.done", ["a.2026.done", "a.2026.csv.done", "a.2026.csv.gz.done"]),
        ("rows", "ready-*", ["ready-rows"]),
        ("a.csv", "_SUCCESS", ["_SUCCESS"]),
    ],
)
def test_a_marker_is_named_after_its_file_or_after_nothing(name: str, pattern: str, markers: list[str]) -> None:
    assert marker_names(name, pattern) == markers
    assert all(is_marker(marker, pattern) for marker in markers)
    assert not is_marker(name, pattern)


def test_a_file_waits_for_a_marker_beside_it_that_is_no_older(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "c.csv", "sub/d.csv", "e.csv"):
        write(tmp_path / "in" / name, ago=100)
    for name, ago in (("a.ok", 100), ("b.csv.ok", 50), ("c.ok", 101), ("d.ok", 0)):
        write(tmp_path / "in" / name, ago=ago)
    now = found(tmp_path, done="*.ok")
    assert taken(now) == ["a.csv", "b.csv"]
    assert waiting(now) == {
        "c.csv": "changed at 2023-11-14 22:11:40 UTC, after its marker, and waits for a newer c.ok or c.csv.ok",
        "e.csv": "waits for its marker e.ok or e.csv.ok",
        "sub/d.csv": "waits for its marker d.ok or d.csv.ok",
    }
    write(tmp_path / "in/c.csv.ok", ago=0)
    assert "c.csv" in taken(found(tmp_path, done="*.ok")), "the newest of its markers counts"


def test_one_marker_may_stand_for_a_folder_and_hidden_ones_count(tmp_path: Path) -> None:
    for name in ("x/a.csv", "x/b.csv", "y/c.csv"):
        write(tmp_path / "in" / name, ago=100)
    write(tmp_path / "in/x/_SUCCESS", ago=50)
    assert taken(found(tmp_path, done="_SUCCESS")) == ["x/a.csv", "x/b.csv"]
    assert taken(found(tmp_path, done="_SUCCESS", path="in/*/*.csv")) == ["x/a.csv", "x/b.csv"]
    assert taken(found(tmp_path, done="_SUCCESS", path="in/x/a.csv")) == ["a.csv"]


def test_markers_are_never_read_as_data(tmp_path: Path) -> None:
    for name in ("a.csv", "a.txt", "b.csv", "b.json"):
        write(tmp_path / "in" / name)
    for done, names in (("*.txt", ["a.csv", "b.csv"]), ("*.json", ["a.csv", "a.txt", "b.csv"])):
        assert [f.relative for f in list_source(Source(path="in", format="csv", done=done), tmp_path).files] == names


def test_a_marker_that_comes_anew_shows_in_what_a_firing_compares(tmp_path: Path) -> None:
    write(tmp_path / "in/a.csv", ago=100)
    write(tmp_path / "in/a.ok", ago=90)
    first = found(tmp_path, done="*.ok")
    write(tmp_path / "in/a.ok", ago=80)
    again = found(tmp_path, done="*.ok")
    assert first.listing.fingerprint == again.listing.fingerprint
    assert first.markers != again.markers
    assert found(tmp_path).markers == ""


@pytest.mark.parametrize("pattern", ["*", "sub/*.ok", "*.*", ""])
def test_a_marker_that_names_no_file_is_refused(pattern: str) -> None:
    with pytest.raises(SpecError, match="done"):
        spec_of("in", done=pattern)


def test_settling_and_marking_are_no_part_of_a_snapshot(tmp_path: Path) -> None:
    write(tmp_path / "in/a.csv", ago=1e6)
    write(tmp_path / "in/a.ok", ago=1e5)
    plain = snap(tmp_path, "in")
    assert snap(tmp_path, "in", settle="1s", done="*.ok").info.key == plain.info.key
    assert rows(plain) == [{"a": 1, "b": "x"}]


def test_objects_wait_for_markers_in_their_folders(
    seaweed: SeaweedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweed.env().items():
        monkeypatch.setenv(name, value)
    bucket = seaweed.bucket("readiness")
    store = open_store(f"s3://{bucket}")
    for key in ("in/2026/a.csv", "in/2026/a.ok", "in/2026/b.csv", "in/2027/c.csv", "in/2027/c.csv.ok"):
        store.put(key, b"a,b\n1,x\n")
    for path, names in (
        ("in", ["2026/a.csv", "2027/c.csv"]), ("in/2026/*.csv", ["a.csv"]), ("in/2027/c.csv", ["c.csv"]),
    ):  # fmt: skip
        assert taken(found(tmp_path, done="*.ok", path=f"s3://{bucket}/{path}")) == names
    listed = list_source(Source(path=f"s3://{bucket}/in"), tmp_path).files[0]
    source = Source(path=f"s3://{bucket}/in/2026", settle=parse_duration("1h"))
    assert len(ready_files(source, tmp_path, now=listed.changed_at + 3700).listing.files) == 2
    with pytest.raises(SourceError, match=r"stood still for 1h.*and waits until"):
        ready_files(source, tmp_path, now=listed.changed_at + 10)


# Lines that are cut off ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("in.csv", "id,text,n\n1,a,2\n2,b", 3),
        ("in.csv", "id,text\r\n1,x\r\n2", 3),
        ("in.csv", 'id,text\n1,"a\nb"\n2', 4),
        ("in.csv", 'id,text\n1,"x"\n2,"half a te', 3),
        ("in.csv", 'id,text\n1,"x"\n2,"he said ""', 3),
        ("in.csv", "id,text\n" + "1,x\n" * 1_200_000 + "2", 1_200_002),
        ("in.ndjson", '{"a": 1}\n\n{"a": ', 3),
        ("in.ndjson", '{"a": 1}\n{"a": "half', 2),
    ],
)
def test_a_last_line_that_is_cut_off_is_refused_by_file_and_line(
    tmp_path: Path, name: str, data: str, line: int
) -> None:
    message = refusal(tmp_path, data, name)
    assert f"{name}: line {line:,}, the last, has no line end" in message
    assert "source.settle" in message


@pytest.mark.parametrize(
    "data", ["id,text\n1,x", "id,text\n1,", 'id,text\n1,"x"', 'id,text\n1,"say ""x"""', 'id,text\n1,5" disk', "id\n1"]
)
def test_a_last_line_may_lack_its_end_if_it_is_whole(tmp_path: Path, data: str) -> None:
    (tmp_path / "in.csv").write_text(data)
    assert len(rows(snap(tmp_path, "in.csv"))) == 1


def test_a_short_line_in_the_middle_is_no_file_that_is_being_written(tmp_path: Path) -> None:
    assert "row 3 (the header is row 1) has 1 field(s)" in refusal(tmp_path, "id,text\n1,a\n2\n3,c")
    assert "row 2 (the header is row 1) has 3 field(s)" in refusal(tmp_path, "id,text\n1,a,b")


def test_a_compressed_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    data = gzip.compress("".join(f"{n},{os.urandom(20).hex()}\n" for n in range(5_000)).encode())
    (tmp_path / "in.csv.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"in\.csv\.gz.*[Tt]runcated"):
        snap(tmp_path, "in.csv.gz")
