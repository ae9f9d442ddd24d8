"""A journal is a set of facts: written whole, read record by record, never guessed at."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import StoreError
from stages.journal.known import Known
from stages.journal.records import CallRecord, NodeRecord, Record, RowRecord, VoidRecord
from stages.journal.segments import UnknownFormat, decode_segment, decode_spool, encode_segment
from stages.journal.writer import Journal
from tests.stages.support import Segments

text = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text, lambda inner: st.lists(inner, max_size=3)
)
errors = st.none() | st.dictionaries(text, json_values, max_size=3)
moments = st.floats(0, 2e9)
rows = st.builds(
    RowRecord,
    stage=text,
    row=text,
    id=text,
    status=st.sampled_from(["ok", "rejected"]),
    answer=st.none() | text,
    error=errors,
    calls=st.lists(st.tuples(text, st.integers(0, 9)), max_size=3).map(tuple),
    run=text,
    at=moments,
    shared=st.booleans(),
)
calls = st.builds(
    CallRecord,
    request=text,
    ordinal=st.integers(0, 9),
    id=text,
    model=text,
    raw=st.none() | text,
    error=errors,
    usage=st.dictionaries(text, st.integers(0, 2**40), max_size=3),
    cost_usd=st.none() | st.floats(0, 100),
    request_id=st.none() | text,
    latency_ms=st.integers(0, 10**6),
    run=text,
    batch=st.integers(0, 10**6),
    at=moments,
    nonce=text,
)
records = st.lists(rows | calls, max_size=6)


def a_row(
    row: str = "r", *, status: Any = "ok", at: float = 1.0, answer: str | None = '{"a": 1}', stage: str = "s"
) -> RowRecord:
    return RowRecord(stage, row, "id", status, answer, None, (("q", 0),), "run", at)


def a_call(request: str = "q", *, raw: str | None = "{}", at: float = 1.0, nonce: str = "n") -> CallRecord:
    return CallRecord(request, 0, "id", "m", raw, None, {"input": 1}, 0.1, None, 5, "run", 0, at, nonce)


@given(records)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read(written: list[Record]) -> None:
    segment = decode_segment(encode_segment(written))
    assert segment.records == written
    assert segment.torn == 0


@given(st.lists(rows | calls, min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_a_torn_byte_costs_its_own_line_at_most_and_is_counted(written: list[Record], draw: random.Random) -> None:
    data = bytearray(encode_segment(written))
    start = data.index(b"\n")  # the header has a test of its own
    at = draw.randrange(start, len(data) - 1)
    old = data[at]
    data[at] = draw.choice([value for value in range(256) if value != old])
    segment = decode_segment(bytes(data))
    line = data[:at].count(b"\n") - 1 if old != ord("\n") else None
    whole = [record for index, record in enumerate(written) if index != line]
    assert [record for record in segment.records if record in whole] == whole
    assert all(record in written for record in segment.records)
    assert segment.torn >= 1


def test_a_line_that_was_cut_off_costs_itself() -> None:
    data = encode_segment([a_row("a"), a_row("b")])
    segment = decode_segment(data[:-20])
    assert [record.key for record in segment.records] == [("s", "a")]
    assert segment.torn == 1


@pytest.mark.parametrize("header", [b"", b"{}", b'{"tandem_jour', b"[1]", b"\xff\xff", b'{"tandem_journal":"1"}'])
def test_a_torn_header_is_counted_and_costs_no_record(header: bytes) -> None:
    _, _, lines = encode_segment([a_row("a"), a_call()]).partition(b"\n")
    segment = decode_segment(header + b"\n" + lines)
    assert len(segment.records) == 2
    assert segment.torn == 1


def test_a_segment_of_another_version_is_refused() -> None:
    _, _, lines = encode_segment([a_row()]).partition(b"\n")
    with pytest.raises(UnknownFormat, match="journal format 2, this Tandem reads 1"):
        decode_segment(b'{"tandem_journal":2}\n' + lines)


def test_lines_with_a_sound_checksum_that_are_no_record_of_ours_are_counted() -> None:
    import zlib

    lines = [b'{"k":"row"}', b'{"k":"other"}', b"[]", b'{"k":"call","surprise":1}']
    body = b"\n".join(b"%08x " % zlib.crc32(line) + line for line in lines)
    assert decode_segment(b'{"tandem_journal":1}\n' + body).torn == len(lines)


# What is known -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_the_same_facts_are_known_whatever_their_order(order: int) -> None:
    facts: list[Record] = [
        a_row("a", status="rejected", at=9.0),
        a_row("a", at=5.0, answer="first"),
        a_row("a", at=7.0, answer="second"),
        a_row("b", status="rejected", at=1.0, answer="old"),
        a_row("b", status="rejected", at=2.0, answer="new"),
        a_call("q", at=3.0, raw="late"),
        a_call("q", at=2.0, raw="early"),
        a_call("p", raw=None),
    ]
    known = Known(facts[::order])
    assert {key[1]: row.answer for key, row in known.rows.items()} == {"a": "first", "b": "new"}
    assert {key[0]: call.raw for key, call in known.calls.items()} == {"q": "early"}


def a_void(row: str, *calls: str, at: float, answer: bool = False) -> VoidRecord:
    return VoidRecord("s", row, "id", tuple((call, 0) for call in calls), "run", at, answer)


@given(st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_what_is_voided_counts_no_more_and_what_came_after_does_whatever_the_order(draw: random.Random) -> None:
    facts: list[Record] = [
        a_row("rejected", status="rejected", at=1.0),
        a_row("healed", status="rejected", at=1.0),
        a_row("healed", at=3.0, answer="new"),
        a_row("kept", at=1.0, answer="old"),
        a_row("asked again", at=1.0, answer="old"),
        a_row("asked again", at=3.0, answer="new"),
        a_row("asked again", at=4.0, answer="newer"),
        *(a_call(request, at=at, raw=str(at)) for request in ("q", "p") for at in (1.0, 3.0, 4.0)),
        a_void("rejected", at=2.0),
        a_void("healed", at=2.0),
        a_void("kept", at=2.0),
        a_void("asked again", "q", at=2.0, answer=True),
        *(NodeRecord("s", "rejected", "id", "0", f"node {at}", (), "run", at) for at in (1.0, 3.0, 4.0)),
    ]
    draw.shuffle(facts)
    known = Known(facts)
    assert {key[1]: row.answer for key, row in known.rows.items()} == {
        "healed": "new", "kept": "old", "asked again": "new",
    }  # fmt: skip
    assert {key[0]: call.raw for key, call in known.calls.items()} == {"q": "3.0", "p": "1.0"}
    assert {node.output for nodes in known.nodes.values() for node in nodes.values()} == {"node 3.0"}


async def test_what_is_noted_after_a_void_counts_though_this_clock_is_behind_the_one_of_who_voided() -> None:
    store = Segments()
    journal = store.journal()
    for record in (a_row("r", at=1.0), a_call("q", at=1.0), a_void("r", "q", at=100.0, answer=True)):
        journal.known.add(record)
    await journal.append(a_call("q", raw="new", at=50.0))
    await journal.append(a_row("r", at=51.0, answer="new"))
    await journal.close()
    again = Known([a_void("r", "q", at=100.0, answer=True), a_row("r", at=1.0), a_call("q", at=1.0), *store.records])
    for known in (journal.known, again):
        assert known.rows["s", "r"].answer == "new"
        assert known.calls["q", 0].raw == "new"


# Flushing ----------------------------------------------------------------------------------------------------------


async def test_records_are_stored_a_while_after_the_first_of_them() -> None:
    store = Segments()
    journal = store.journal(flush_s=0.05)
    await journal.append(a_row("a"))
    await journal.append(a_row("b"))
    assert store.data == []
    await asyncio.sleep(0.15)
    assert len(store.data) == 1
    assert len(store.records) == 2
    await journal.close()
    assert len(store.data) == 1


async def test_records_are_stored_when_there_are_enough() -> None:
    store = Segments()
    journal = store.journal(flush_s=60, flush_records=3)
    for name in "abcd":
        await journal.append(a_row(name))
    await asyncio.sleep(0.02)
    assert len(store.records) >= 3
    await journal.close()
    assert len(store.records) == 4


async def test_in_strict_mode_each_record_is_stored_when_append_returns() -> None:
    store = Segments()
    journal = store.journal(strict=True, flush_s=60)
    for at, name in enumerate("abc", start=1):
        await journal.append(a_row(name))
        assert len(store.records) == at
    await asyncio.gather(*(journal.append(a_row(f"x{at}")) for at in range(20)))
    assert len(store.records) == 23
    assert store.puts < 23  # those that wait together are stored together
    await journal.close()


async def test_a_failing_store_keeps_the_records_for_the_next_flush() -> None:
    store = Segments(failing=StoreError("away"))
    journal = store.journal(flush_s=0.02)
    await journal.append(a_row("a"))
    await asyncio.sleep(0.1)
    assert store.puts >= 2  # it tries again, though nobody appends
    assert str(journal.failed) == "away"
    with pytest.raises(StoreError):
        await journal.flush()
    store.failing = None
    await asyncio.sleep(0.1)
    assert [record.key for record in store.records] == [("s", "a")]
    assert not journal.failed
    await journal.close()


async def test_while_the_store_fails_no_more_than_a_flush_of_records_piles_up() -> None:
    store = Segments(failing=StoreError("away"))
    journal = store.journal(flush_s=60, flush_records=5)

    async def appended() -> None:
        for at in range(50):
            await journal.append(a_row(str(at)))
            await asyncio.sleep(0.001)

    with pytest.raises(StoreError):
        await appended()
    assert len(journal.known.rows) <= 12
    store.failing = None
    await journal.close()
    assert len(store.records) == len(journal.known.rows)


async def test_in_strict_mode_a_failing_store_raises() -> None:
    store = Segments(failing=OSError("disk"))
    journal = store.journal(strict=True)
    with pytest.raises(OSError, match="disk"):
        await journal.append(a_row())
    store.failing = None
    await journal.close()
    assert len(store.records) == 1


async def test_closing_waits_for_a_flush_under_way_and_stores_the_rest() -> None:
    stored: list[bytes] = []
    go = asyncio.Event()

    async def slow(data: bytes) -> None:
        await go.wait()
        stored.append(data)

    journal = Journal(slow, known=Known(), flush_records=1)
    await journal.append(a_row("a"))
    await asyncio.sleep(0)
    await journal.append(a_row("b"))
    closing = asyncio.create_task(journal.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    go.set()
    await closing
    assert len([record for data in stored for record in decode_segment(data).records]) == 2


async def test_a_flush_that_is_cancelled_keeps_its_records() -> None:
    store = Segments()
    forever = asyncio.Event()

    async def stuck(data: bytes) -> None:
        await forever.wait()

    journal = Journal(stuck, known=Known(), flush_s=60)
    await journal.append(a_row("a"))
    flushing = asyncio.create_task(journal.flush())
    await asyncio.sleep(0.01)
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    journal._put = store.put
    await journal.close()
    assert len(store.records) == 1


# The spool ---------------------------------------------------------------------------------------------------------


class Lines:
    """A spool in memory."""

    def __init__(self) -> None:
        self.data = b""
        self.whole: bool | None = None

    def write(self, line: bytes) -> None:
        self.data += line + b"\n"

    def replace(self, lines: Sequence[bytes]) -> None:
        self.data = b"".join(line + b"\n" for line in lines)

    def close(self, *, whole: bool) -> None:
        self.whole = whole


async def test_the_spool_holds_what_is_not_stored_and_what_is_in_flight() -> None:
    store, spool = Segments(), Lines()
    journal = Journal(store.put, known=Known(), flush_s=60, spool=spool)
    for nonce in ("answered", "refused", "in flight"):
        journal.sending(a_call(nonce, raw=None, nonce=nonce))
    await journal.append(a_call("answered", nonce="answered"))
    journal.unbilled("refused")
    await journal.append(a_row("a"))
    left = decode_spool(spool.data + b"torn li")
    assert [(record.key[0], getattr(record, "raw", "")) for record in left] == [
        ("answered", "{}"), ("s", ""), ("in flight", None),
    ]  # fmt: skip
    await journal.flush()
    assert [record.key[0] for record in decode_spool(spool.data)] == ["in flight"]
    await journal.close()
    assert spool.whole is True


async def test_a_spool_is_left_where_the_store_failed_to_the_end() -> None:
    store, spool = Segments(failing=StoreError("away")), Lines()
    journal = Journal(store.put, known=Known(), flush_s=60, spool=spool)
    await journal.append(a_row("a"))
    with pytest.raises(StoreError):
        await journal.close()
    assert spool.whole is False
    assert [record.key for record in decode_spool(spool.data)] == [("s", "a")]
