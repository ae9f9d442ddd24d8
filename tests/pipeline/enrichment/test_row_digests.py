"""Digests of rows are the same in memory and on disk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.enrichment import row_digests
from pipeline.enrichment.row_digests import BatchDigests, RowDigests
from pipeline.stores.scratch_folder import ScratchFolder
from stages.journal.fingerprints import DIGEST_BYTES

_parts = st.lists(st.lists(st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES), max_size=4), max_size=4)


@given(_parts)
def test_they_are_the_same_in_memory_and_on_disk(parts: list[list[bytes]]) -> None:
    rows = sum(map(len, parts))
    with ScratchFolder() as folder, pytest.MonkeyPatch.context() as patch:
        held = RowDigests(folder, rows)
        patch.setattr(row_digests, "_HELD_ROWS", -1)
        on_disk = RowDigests(folder, rows)
        for some in parts:
            for one in (held, on_disk):
                one.add("row_id", b"".join(some))
                one.add("gone", b"".join(some))
        for one in (held, on_disk):
            one.forget("gone")
            one.forget("gone")
        assert held.keys("row_id").to_list() == on_disk.keys("row_id").to_list()
        assert held.keys("gone").to_list() == on_disk.keys("gone").to_list() == []
        for start in range(rows):
            encoded = held.encoded(start, 2, ["row_id", "gone"])
            assert encoded == on_disk.encoded(start, 2, ["row_id", "gone"])
            texts = BatchDigests.of(encoded).texts("row_id")
            assert texts is not None
            assert texts.to_list() == [one.hex() for some in parts for one in some][start : start + 2]
