"""A batch of known answers leaves the same behind, made of columns or row by row."""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.enrichment.staging import StagingFolder
from pipeline.journal.known_file import records_of
from pipeline.stores import MemoryStore
from pipeline.stores.base import ObjectInfo
from schemas import ids
from schemas.staging import PlannedBatch, Receipt
from stages.journal.fingerprints import row_ids
from stages.journal.records import Record, RowRecord, VoidRecord, now
from stages.journal.segments import decode_segment, encode_segment
from tests.harness.own_calls import calls_a_row
from tests.pipeline.jobs import EXTRACT, Bench, rows

FILE = "file=rows.parquet"
MOST_CALLS = 0.9  # of our own functions for a row: 0.7 of them list what the first run has left in the store
FIRST: dict[str, Any] = {
    "name": "triage", "uses": "extract", "model": "offline:lexical", "prompt": "{{ text }} {{ note }}",
    "output": {
        "level": {"type": "int", "ge": 1, "le": 5}, "word": "str", "tags": "list[str]",
        "when": {"type": "date", "optional": True},
        "part": {"type": "fields", "fields": {"a": "float", "b": "str?"}},
    },
}  # fmt: skip
LATER: dict[str, Any] = {
    "name": "again", "uses": "extract", "model": "offline:lexical", "prompt": "{{ word }}", "output": {"upper": "str"},
}  # fmt: skip
TWICE = {**FIRST, "name": "twice", "prompt": "{{ text }}", "output": {"text": "str"}, "replace": True}
FILTER = {"name": "some", "uses": "sql", "query": "SELECT * FROM rows WHERE level > 1 OR id % 3 = 0"}
REPLACE = {"name": "other", "uses": "sql", "query": "SELECT * REPLACE (text || '!' AS text) FROM rows"}
CHECKS = {
    "name": "sound", "uses": "checks", "with": {"rules": [{"name": "short", "sql": "length(word) < 6"}]},
}  # fmt: skip
EXPLODE = {"name": "each", "uses": "explode", "with": {"column": "tags"}}
PIPELINES: tuple[list[dict[str, Any]], ...] = (
    [],
    [LATER],
    [TWICE, {**TWICE, "name": "thrice"}],
    [FILTER, LATER],
    [CHECKS],
    [CHECKS, LATER],
    [EXPLODE, LATER],
)

OWN: dict[str, Any] = {
    "name": "own", "uses": "columns_leave:graph", "outputs": {"made": "out", "at": "when"},
    "output": {"made": {"type": "fields", "fields": {"text": "str", "list": "list[str]"}}, "at": "datetime"},
}  # fmt: skip
GRAPH = """
from typing import Any, TypedDict
from langgraph.graph import StateGraph

class State(TypedDict, total=False):
    seen: Any
    out: Any
    when: Any

def work(state):
    text = repr(state["seen"])
    if len(text) % 5 == 0:
        raise ValueError(text)
    return {"out": {"text": text, "list": [text]}, "when": "2026-01-01T00:30:00+02:00"}

graph = StateGraph(State).add_node("work", work).add_edge("__start__", "work").add_edge("work", "__end__")
"""
PARTITION = {"name": "all", "uses": "sql", "scope": "partition", "query": "SELECT * FROM rows ORDER BY id DESC"}

TEXTS = st.sampled_from(["", None, "Invoice late", "Crash, and the customer is angry", 'ünï\\"\n\u2028{}', "refund"])
TIMES = st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2100, 1, 1))  # noqa: DTZ001 - a zone is another column's
IN_UTC = TIMES.map(lambda time: time.replace(tzinfo=dt.UTC))
PARTS = st.fixed_dictionaries({"a": st.floats() | st.none(), "b": TEXTS})
NESTED = st.fixed_dictionaries({"day": st.dates() | st.none(), "usd": st.decimals(-99, 99, places=2) | st.none()})
COLUMNS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "score": (pl.Float64, st.floats()),
    "small": (pl.Float32, st.floats(width=32)),
    "count": (pl.UInt64, st.integers(0, 2**63)),
    "usd": (pl.Decimal(12, 3), st.decimals(-99_999, 99_999, places=3)),
    "yes": (pl.Boolean, st.booleans()),
    "nanos": (pl.Datetime("ns"), TIMES),
    "paris": (pl.Datetime("us", "Europe/Paris"), IN_UTC),
    "day": (pl.Date, st.dates()),
    "clock": (pl.Time, st.times()),
    "took": (pl.Duration("us"), st.timedeltas(dt.timedelta(-100), dt.timedelta(100))),
    "bytes": (pl.Binary, st.binary(max_size=4)),
    "kind": (pl.Categorical, st.sampled_from(["a", "b"])),
    "nothing": (pl.Null, st.none()),
    "parts": (pl.List(pl.Struct({"a": pl.Float64, "b": pl.String})), st.lists(PARTS, max_size=2)),
    "tokyo": (pl.List(pl.Datetime("us", "Asia/Tokyo")), st.lists(IN_UTC, max_size=2)),
    "nested": (pl.Struct({"day": pl.Date, "usd": pl.Decimal(9, 2)}), NESTED),
}


@st.composite
def tables(draw: st.DrawFn, names: list[str], first: int) -> pl.DataFrame:
    """Some rows of these columns, numbered from `first`."""
    rows = draw(st.integers(1, 7))
    columns = {"text": (pl.String, TEXTS), "note": (pl.String, TEXTS), **{name: COLUMNS[name] for name in names}}
    numbers = pl.Series("id", range(first, first + rows), dtype=pl.Int64)
    found = [
        pl.Series(name, draw(st.lists(values | st.none(), min_size=rows, max_size=rows)), dtype=kind, strict=False)
        for name, (kind, values) in columns.items()
    ]
    return pl.DataFrame([numbers, *found])


@st.composite
def specs(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    key = draw(st.sampled_from(({"key": ["id"]}, {})))

    def options() -> dict[str, Any]:
        return {"on_reject": draw(st.sampled_from(["drop", "null"])), "share": draw(st.booleans()) or not key}

    prompt = " ".join(f"{{{{ {name} }}}}" for name in ["text", "note", *names[:1]])
    first = {**FIRST, **options(), "prompt": prompt, "when_empty": draw(st.sampled_from(["null", "reject", "call"]))}
    own = {**OWN, **options(), "inputs": {"seen": names[-1]}}
    asked = [first, *draw(st.sampled_from(PIPELINES))]
    return {
        "source": {"path": "rows.parquet", **key},
        "stages": [
            *draw(st.sampled_from(([], [REPLACE]))),
            *draw(st.sampled_from((asked, [own], [own, *asked]))),
            *draw(st.sampled_from(([], [], [PARTITION]))),
        ],
        "limits": {"max_reject_rate": 1.0, **draw(st.sampled_from(({}, {"batch_rows": 4})))},
    }


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], list[pl.DataFrame]]:
    """A spec, and what its source has at one run after the other. Each row of the last is known by then; of some, a
    later stage's answer only by the call that an equal row made, which is gone: these are run."""
    names = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=3, unique=True))
    spec = draw(specs(names))
    first = draw(tables(names, 0))
    second = pl.concat([first[draw(st.integers(0, 4)) :], draw(tables(names, 100))])
    kept = st.lists(st.integers(0, second.height - 1), min_size=1, max_size=9, unique="key" in spec["source"])
    return spec, [first, second, draw(st.sampled_from((second, second[draw(kept)])))]


@pytest.fixture
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "columns_leave.py").write_text(GRAPH)
    monkeypatch.syspath_prepend(tmp_path)


async def both_ways(bench: Bench) -> tuple[list[Receipt], list[Receipt], list[Record], list[Record], int]:
    """Run the same batches row by row and as columns; return their receipts, the records that they wrote, and how many
    batches were made of columns."""
    job = bench.job()
    plan = bench.plan(job, f"run-{uuid.uuid4().hex[:8]}", reprocess="all")
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    found: list[tuple[list[Receipt], list[Record]]] = []
    for by_row in (True, False):
        bench.by_row, bench.as_columns = by_row, 0
        done = await bench.enrich(job, plan, opened)
        staging = StagingFolder(bench.store, opened.folder)
        written = [key for key in bench.keys(ids.journal_segments(FILE)) if f"/{plan.run}/" in key]
        records = [record for key in written for record in decode_segment(bench.store.get(key)).records]
        bench.store.delete(written)
        found.append(([staging.receipt(number, one.receipt) for number, one in enumerate(done)], records))
    receipts = [one.receipt for one in done]
    bench.publish(job, plan, opened, receipts)
    return found[0][0], found[1][0], found[0][1], found[1][1], bench.as_columns


@given(cases())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.usefixtures("graphs")
async def test_columns_leave_what_rows_leave(case: tuple[dict[str, Any], list[pl.DataFrame]]) -> None:
    """Over random tables and pipelines; before the batches are compared, rows leave, and equal ones come."""
    spec, (first, second, last) = case
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), spec=spec)
        bench.write(first)
        await bench.one()
        bench.write(second)
        bench.by_row = True
        await bench.one()
        bench.write(last)
        by_row, as_columns, *records, made = await both_ways(bench)
        if made < len(as_columns):
            assert last is not second
            return
        assert as_columns == by_row
        assert sorted(map(str, records[1])) == sorted(map(str, records[0]))


async def test_what_is_not_a_known_answer_is_run_row_by_row(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rows(25))
    await bench.one()
    await bench.one(reprocess="all")
    assert bench.as_columns == 1
    bench.write(rows(26))
    assert (await bench.one()).usage.calls == 1
    await bench.one(reprocess="all", fresh=True)
    await bench.one(bench.job(sink={"path": "out", "provenance": "columns"}), reprocess="all")
    assert bench.as_columns == 1


async def test_a_void_is_heeded(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write(rows(25))
    await bench.one()
    (record,) = [record for record in records_of_run(bench) if isinstance(record, RowRecord)][:1]
    void = VoidRecord(record.stage, record.row, record.id, record.calls, "person", now(), answer=True)
    bench.store.put_absent(ids.journal_segment(FILE, "person", 0, "void"), encode_segment([void]))
    again = await bench.one(reprocess="all")
    assert (again.usage.calls, again.reuse.rows_reused, bench.as_columns) == (1, 24, 0)


def records_of_run(bench: Bench) -> list[Record]:
    keys = bench.keys(ids.journal_segments(FILE))
    return [record for key in keys for record in decode_segment(bench.store.get(key)).records]


async def test_known_records_whose_bytes_have_changed_are_refused(tmp_path: Path) -> None:
    """A batch must not take them for nothing, and pay again."""
    bench = Bench(tmp_path)
    bench.write(rows(25))
    await bench.one()
    job = bench.job()
    plan = bench.plan(job, "run-2", reprocess="all")
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    key = str(opened.batches[0].known)
    bench.store.put(key, bench.store.get(key)[:-1] + b"?")
    for bench.by_row in (False, True):
        with pytest.raises(Exception, match="not those that were staged"):
            await bench.enrich(job, plan, opened)


async def test_a_batch_that_an_earlier_version_opened_has_its_answers(tmp_path: Path) -> None:
    """It staged records as a segment, and no digests."""
    bench = Bench(tmp_path)
    bench.write(rows(25))
    await bench.one()
    job = bench.job()
    plan = bench.plan(job, "run-2", reprocess="all")
    opened = bench.open(job, plan, FILE)
    assert opened is not None
    (batch,) = opened.batches
    segment = encode_segment(records_of(bench.store.get(str(batch.known))))
    known = ids.staged(opened.folder, 0, "known", hashlib.sha256(segment).hexdigest(), "jsonl")
    bench.store.put(known, segment)
    earlier = batch.model_dump(exclude={"digests"}) | {"known": known}
    opened = opened.model_copy(update={"batches": (PlannedBatch.model_validate(earlier),)})
    (done,) = await bench.enrich(job, plan, opened)
    manifest = bench.publish(job, plan, opened, [done.receipt]).manifest
    assert manifest is not None
    assert (manifest.usage.calls, manifest.reuse.rows_reused, bench.as_columns) == (0, 25, 0)


async def test_a_known_answer_takes_no_call_of_its_own(tmp_path: Path) -> None:
    """Opened, made of columns and published: what is done for a row is done by Polars, Arrow and hashlib."""
    benches = {}
    for count in (40, 340):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        benches[count] = bench = Bench(folder)
        bench.write(rows(count))
        await bench.one()
        await bench.one(reprocess="all")

    async def run(count: int) -> None:
        await benches[count].one(reprocess="all")

    for count in benches:
        await run(count)
    assert await calls_a_row(run, *benches) < MOST_CALLS


async def test_a_row_that_a_check_rejects_does_not_search_all_others(tmp_path: Path) -> None:
    """The answer that a check blames is found at once, as it is row by row; it took 40 times as long at this size."""
    checks = {"name": "even", "uses": "checks", "with": {"rules": [{"name": "even", "sql": "id % 2 = 0"}]}}
    bench = Bench(tmp_path, spec={"stages": [EXTRACT, checks], "limits": {"max_reject_rate": 1.0}})
    bench.write(pl.DataFrame({"id": range(20_000)}).with_columns(text=pl.lit("Invoice late")))
    await bench.one()
    seconds = {}
    for bench.by_row in (True, False):
        began = time.process_time()
        await bench.one(reprocess="all")
        seconds[bench.by_row] = time.process_time() - began
    assert bench.as_columns == 1
    assert seconds[False] < 5 * seconds[True] + 1


class Listed(MemoryStore):
    """Notes what is listed."""

    prefixes: ClassVar[list[str]] = []

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        self.prefixes.append(prefix)
        return super().list(prefix, start_after=start_after)


async def test_a_batch_without_known_answers_lists_its_earlier_records_once(tmp_path: Path) -> None:
    """Each listing is a request that is paid for, and a wait."""
    bench = Bench(tmp_path, store=Listed(uuid.uuid4().hex))
    bench.write(rows(25))
    await bench.one(run="run-1")
    assert Listed.prefixes.count(ids.journal_batch(FILE, "run-1", 0)) == 1


async def test_identities_are_taken_from_an_index_only_where_the_key_is_the_same(tmp_path: Path) -> None:
    bench, frame = Bench(tmp_path), rows(25)
    bench.write(frame)
    for key in ([], ["id"], ["text"], ["text"]):
        source = {"path": "rows.parquet", **({"key": key} if key else {})}
        manifest = await bench.one(bench.job(source=source), reprocess="all")
        assert manifest.index is not None
        index = pl.read_parquet(bench.store.get(manifest.index.key))
        assert index["row_id"].bin.encode("hex").to_list() == row_ids(frame, key)
        assert index["content"].bin.encode("hex").to_list() == row_ids(frame, [])
    assert bench.as_columns == 3
