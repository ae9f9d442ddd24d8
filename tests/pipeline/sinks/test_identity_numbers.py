"""Numbers of rows on disk are compared as multisets, in memory of one bucket."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.sinks import identity_numbers
from pipeline.sinks.identity_numbers import IdentityNumbers


@pytest.mark.parametrize("held", [10, 1_000_000])
def test_repeated_and_missing_numbers_are_those_of_multisets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(identity_numbers, "_HELD", held)
    chance = np.random.default_rng(1)
    values = chance.integers(0, 2**64, 300, dtype=np.uint64)
    before, now = (chance.choice(values, 400) for _ in range(2))
    one = IdentityNumbers.of(tmp_path / "before", np.split(before, 8))
    other = IdentityNumbers.of(tmp_path / "now", np.split(now, 8))
    counts, later = Counter(before.tolist()), Counter(now.tolist())
    assert sorted(one.repeated().tolist()) == sorted(value for value, times in counts.items() if times > 1)
    assert one.missing_from(other) == (counts - later).total()
    assert one.missing_from(IdentityNumbers(tmp_path / "none")) == 400
    assert IdentityNumbers(tmp_path / "empty").repeated().tolist() == []
