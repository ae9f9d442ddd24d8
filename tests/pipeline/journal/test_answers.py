"""The index of a dataset's answers: its files, what they cover, and that nothing of it is needed."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.journal import answer_keys, record_frames
from pipeline.journal.answers import coverage, index, index_files
from pipeline.journal.answers.coverage import NewRecords
from pipeline.journal.answers.filters import Filters, filter_of
from pipeline.journal.answers.index import AnswerIndex
from pipeline.process_state import COMMAND, STATE
from pipeline.stores import MemoryStore
from schemas import ids
from stages.journal.records import (
    AnswerRecord,
    CallRecord,
    CommonRecord,
    NodeRecord,
    Record,
    RequestRecord,
    RowRecord,
    VoidRecord,
    encode_record,
)
from stages.journal.segments import encode_segment

DAY, NEXT = "day=2026-11-01", "day=2026-11-02"
SPACE = 1 << 60


def _unique() -> str:
    return uuid.uuid4().hex


def keys_of(*numbers: int) -> pl.Series:
    return pl.Series("key", numbers, dtype=pl.UInt64)


def entries(partition: str, *numbers: int) -> pl.DataFrame:
    return pl.DataFrame({"key": keys_of(*numbers)}).with_columns(partition=pl.lit(partition))


def published(**generations: int) -> pl.DataFrame:
    names = {"day": DAY, "next": NEXT}
    rows = [(names[name], generation) for name, generation in generations.items()]
    return pl.DataFrame(rows, schema={"partition": pl.String, "generation": pl.Int64}, orient="row")


def write(store: MemoryStore, partition: str, *records: Record, run: str = "run-1") -> None:
    store.put(ids.journal_segment(partition, run, 0, _unique()), encode_segment(list(records)))


def digest(number: int) -> str:
    return f"{number:015x}{0:017x}"


def row(number: int) -> RowRecord:
    return RowRecord(digest(7), digest(number), digest(number + 1), "ok", "{}", None, (), "run-1", 1.0)


def places(store: MemoryStore, keys: pl.Series) -> set[str]:
    return set(AnswerIndex(store).find(keys)["partition"])


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(_unique())


# Filters -----------------------------------------------------------------------------------------------------------


def test_a_filter_passes_all_of_its_keys_and_few_others() -> None:
    numbers = np.random.default_rng(1).integers(0, SPACE, 60_000, dtype=np.uint64)
    inside, outside = np.sort(numbers[:40_000]), numbers[40_000:]
    groups = [inside[:15_000], inside[15_000:39_999], inside[39_999:]]
    made = Filters(np.array([group[0] for group in groups]), [filter_of(group) for group in groups])
    assert made.may_have(inside).all()
    assert made.may_have(outside).mean() < 0.02
    assert all(made.may_have_one(key) for key in inside[::97].tolist())
    assert [made.may_have_one(key) for key in outside[:2_000].tolist()] == made.may_have(outside[:2_000]).tolist()
    assert made.bytes * 8 <= 13 * len(inside)
    nothing = Filters(np.array([], dtype=np.uint64), [])
    assert not nothing.may_have(inside).any()
    assert not nothing.may_have_one(1)


def test_a_file_of_an_earlier_version_has_its_filters_made_of_its_keys(tmp_path: Path) -> None:
    path, numbers = tmp_path / "answers.parquet", range(0, 30_000, 3)
    index_files.write(path, {DAY: (0, 1)}, [entries(DAY, *numbers)])
    now = index_files.IndexFile.opened("now", lambda: path.open("rb"))
    old = tmp_path / "old.parquet"
    with pq.ParquetFile(path) as parquet:
        schema = parquet.schema_arrow.remove(2)
        with pq.ParquetWriter(old, schema) as writer:
            for group in range(parquet.metadata.num_row_groups):
                writer.write_table(parquet.read_row_group(group, columns=["key", "place"]).cast(schema))
    before = index_files.IndexFile.opened("old", lambda: old.open("rb"))
    assert before.filters.bytes == now.filters.bytes > 10_000
    for file in (now, before):
        found = file.find(keys_of(3, 4, 29_997, 30_000).to_numpy())
        assert found is not None
        assert found["key"].to_list() == [3, 29_997]
        assert file.find(keys_of(4, 30_000).to_numpy()) is None


# Files -------------------------------------------------------------------------------------------------------------


def test_each_key_is_found_with_every_partition_that_has_it(store: MemoryStore) -> None:
    AnswerIndex(store).add({DAY: (0, 1)}, entries(DAY, 1, 2, SPACE - 1))
    AnswerIndex(store).add({NEXT: (0, 1)}, entries(NEXT, 2, 3))
    found = AnswerIndex(store).find(keys_of(0, 2, 3, SPACE - 1, 4)).sort("key", "partition")
    assert found.rows() == [(2, DAY), (2, NEXT), (3, NEXT), (SPACE - 1, DAY)]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.lists(st.integers(0, SPACE - 1) | st.integers(0, 50), max_size=40)),
        max_size=30,
    )
)
def test_merged_files_have_all_that_was_added(adds: list[tuple[str, list[int]]]) -> None:
    store, expected = MemoryStore(_unique()), set[tuple[int, str]]()
    for generation, (partition, numbers) in enumerate(adds):
        AnswerIndex(store).add({partition: (0, generation)}, entries(partition, *numbers))
        expected |= {(number, partition) for number in numbers}
    levels = [ids.parse_answers(info.key) for info in store.list(ids.ANSWERS)]
    assert all(levels.count(level) < 8 for level in levels)
    asked = keys_of(*{number for _, numbers in adds for number in numbers}, 51)
    assert set(AnswerIndex(store).find(asked).rows()) == expected
    assert AnswerIndex(store).covered() == {partition: max(g for g, (p, _) in enumerate(adds) if p == partition)
                                            for partition, _ in adds}  # fmt: skip


def test_an_index_of_many_row_groups_is_searched_and_merged_by_parts(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(index_files, "GROUP", 64)
    monkeypatch.setattr(index, "_WINDOW_KEYS", 100)
    numbers = np.random.default_rng(2).choice(SPACE, 4_000, replace=False).tolist()
    for at in range(8):
        AnswerIndex(store).add({DAY: (at, at + 1)}, entries(DAY, *numbers[at * 500 : at * 500 + 500]))
    [merged] = [info.key for info in store.list(ids.ANSWERS)]
    assert ids.parse_answers(merged) == 1
    assert AnswerIndex(store).find(keys_of(*numbers, 5)).height == 4_000
    assert AnswerIndex(store).covered() == {DAY: 8}


def test_an_answer_takes_few_bytes(store: MemoryStore) -> None:
    numbers = np.random.default_rng(3).choice(SPACE, 200_000, replace=False)
    spread = pl.DataFrame({"key": pl.Series(numbers, dtype=pl.UInt64)}).with_columns(
        partition=pl.format("day={}", pl.int_range(pl.len()) % 1_000)
    )
    AnswerIndex(store).add({f"day={number}": (0, 1) for number in range(1_000)}, spread)
    size = sum(info.size for info in store.list(ids.ANSWERS))
    assert 2 * size / 200_000 <= 40, "a row with one stage and one call has two keys"


# Coverage ----------------------------------------------------------------------------------------------------------


def test_a_record_is_found_by_its_row_and_by_its_source(store: MemoryStore) -> None:
    call = CallRecord(digest(50), 0, digest(60), "m", "{}", None, {}, None, None, 1, "run-1", 0, 1.0, "ab")
    void = VoidRecord(digest(7), digest(80), digest(90), (), "run-1", 1.0)
    write(store, DAY, row(1), call, void)
    coverage.catch_up(store, published(day=1))
    by_row = answer_keys.of_rows(digest(7), pl.Series([digest(1), digest(80)]))
    by_source = answer_keys.of_digests(pl.Series([digest(2), digest(60), digest(90)]))
    assert AnswerIndex(store).find(pl.concat([by_row, by_source])).height == 5


_digests = st.integers(0, SPACE - 1).map(digest)
_row_facts = st.tuples(st.sampled_from([digest(7), ""]), _digests, _digests)
_records: st.SearchStrategy[Record] = st.one_of(
    _row_facts.map(lambda of: RowRecord(*of, "ok", "{}", None, (), "run-1", 1.0)),
    _row_facts.map(lambda of: RowRecord(*of, "pending", "{}", None, (), "run-1", 1.0)),
    _row_facts.map(lambda of: VoidRecord(*of, (), "run-1", 1.0)),
    _row_facts.map(lambda of: AnswerRecord(*of, "q", 0, "yes", "run-1", 1.0, "ab")),
    _row_facts.map(lambda of: NodeRecord(*of, "node", "{}", (), "run-1", 1.0)),
    st.tuples(_digests, _digests).map(
        lambda of: CallRecord(of[0], 0, of[1], "m", "{}", None, {}, None, None, 1, "run-1", 0, 1.0, "ab")
    ),
    st.tuples(_digests, _digests, _digests).map(lambda of: RequestRecord(*of, "[]", "run-1", 1.0)),
    _digests.map(lambda of: CommonRecord(of, "text", "run-1", 1.0)),
)


@given(st.lists(_records, max_size=20))
def test_some_records_have_the_keys_that_their_frame_has(records: list[Record]) -> None:
    one_by_one = answer_keys.of_bodies([encode_record(record) for record in records])
    assert set(one_by_one) == set(answer_keys.of_records(record_frames.of_records(records)))
    assert one_by_one.dtype == answer_keys.KEYS
    assert one_by_one.n_unique() == len(one_by_one)


def test_a_record_that_lacks_a_digest_has_the_keys_of_the_others() -> None:
    whole = orjson.loads(encode_record(row(1)))
    bodies = [orjson.dumps({name: whole[name] for name in whole if name != gone}) for gone in ("id", "row", "stage")]
    bodies += [b'{"k":"call","id":"%s"}' % digest(3).encode()]
    found = set(answer_keys.of_bodies(bodies))
    assert found == set(answer_keys.of_records(record_frames.of_bodies(bodies)))
    assert len(found) == 3


def test_a_sink_of_an_earlier_version_gets_its_index_by_itself(store: MemoryStore) -> None:
    write(store, DAY, row(1))
    write(store, NEXT, row(2))  # of a run that was killed before it published
    coverage.catch_up(store, published(day=3))
    assert places(store, answer_keys.of_rows(digest(7), pl.Series([digest(1), digest(2)]))) == {DAY, NEXT}
    assert AnswerIndex(store).covered() == {DAY: 3, NEXT: 0}


def test_what_is_covered_is_not_read_again(store: MemoryStore) -> None:
    coverage.add_commits(store, [NewRecords(DAY, 1, None, keys_of(1))])
    coverage.add_commits(store, [NewRecords(DAY, 2, 1, keys_of(2))])
    write(store, DAY, row(9))  # of a run that is at work
    coverage.catch_up(store, published(day=2))
    assert places(store, keys_of(1, 2)) == {DAY}
    assert not places(store, answer_keys.of_rows(digest(7), pl.Series([digest(9)])))


def test_commits_that_end_together_are_one_object(store: MemoryStore) -> None:
    coverage.mark(store, DAY, "run-1")
    new = [NewRecords(NEXT, 4, 3, keys_of(9)), NewRecords(DAY, 2, 1, keys_of(2)), NewRecords(DAY, 1, None, keys_of(1))]
    coverage.add_commits(store, new)
    assert len(AnswerIndex(store).files()) == 1
    assert AnswerIndex(store).covered() == {DAY: 2}, "of the other day, earlier generations are not indexed"
    assert places(store, keys_of(1, 2)) == {DAY}
    assert places(store, keys_of(9)) == {NEXT}
    assert not coverage.marked(store)


def test_a_commit_that_was_not_indexed_is_found_before_the_next_run(store: MemoryStore) -> None:
    coverage.add_commits(store, [NewRecords(DAY, 1, None, keys_of(1))])
    write(store, DAY, row(9))
    coverage.add_commits(store, [NewRecords(DAY, 3, 2, keys_of(3))])
    assert AnswerIndex(store).covered() == {DAY: 1}
    coverage.catch_up(store, published(day=3))
    assert AnswerIndex(store).covered() == {DAY: 3}
    assert places(store, answer_keys.of_rows(digest(7), pl.Series([digest(9)]))) == {DAY}


@pytest.mark.parametrize("damage", [b"", b"PAR1 no Parquet", None])
def test_a_damaged_or_deleted_index_is_written_again(store: MemoryStore, damage: bytes | None) -> None:
    write(store, DAY, row(1))
    coverage.catch_up(store, published(day=1))
    for info in list(store.list(ids.ANSWERS)):
        if damage is None:
            store.delete([info.key])
        else:
            store.put(info.key, damage)
    STATE.forget()
    wanted = answer_keys.of_rows(digest(7), pl.Series([digest(1)]))
    assert not places(store, wanted)
    coverage.catch_up(store, published(day=1))
    assert places(store, wanted) == {DAY}


def test_a_marker_stays_until_its_run_is_over(store: MemoryStore) -> None:
    write(store, DAY, row(1))
    coverage.mark(store, DAY, "run-1")
    AnswerIndex(store).add({NEXT: (0, 1)}, entries(NEXT, 5))
    coverage.settle(store, published(next=1), lambda run: False)
    assert [(one.run, one.command, one.partition) for one in coverage.marked(store)] == [("run-1", COMMAND.name, DAY)]
    coverage.settle(store, published(next=1), lambda run: run == "run-1")
    assert not coverage.marked(store)
    assert places(store, answer_keys.of_rows(digest(7), pl.Series([digest(1)]))) == {DAY}


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.one_of(st.none(), st.text(max_size=33), st.text("0123456789abcdef", min_size=32, max_size=32))),
    st.integers(0, 3),
)
@example(["-1", "-f"], 0)
def test_keys_are_the_first_bits_of_digests_whatever_stands_beside_them(texts: list[str | None], start: int) -> None:
    digests = [text for text in texts if text is not None and len(text) == 32 and set(text) <= set("0123456789abcdef")]
    assert answer_keys.of_digests(pl.Series(digests, dtype=pl.String)[start:]).to_list() == [
        answer_keys.of_digest(text) for text in digests[start:]
    ]
    whole = pl.Series(texts, dtype=pl.String)[start:]
    slow = whole.str.slice(0, 15).str.to_integer(base=16, strict=False)
    assert answer_keys.of_digests(whole).to_list() == slow.set(slow < 0, None).to_list()
