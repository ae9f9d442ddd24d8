"""Outcomes of partitions: what is read is the same before, while and after they are put together into pages."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable

import pytest

from pipeline.sinks import catalogue, outcomes
from pipeline.stores import MemoryStore
from schemas import ids
from schemas.errors import ConnectionFailed
from schemas.messages.partition import PartitionResult

NOW = dt.datetime(2026, 11, 18, 12, 30, tzinfo=dt.UTC)


class Store(MemoryStore):
    """A store whose objects are a minute apart, and that refuses to delete on demand."""

    def __init__(self) -> None:
        self.clock = NOW
        self.refuses = False
        self.meanwhile: Callable[[], None] | None = None  # called once, before objects are deleted
        super().__init__(uuid.uuid4().hex, now=self._tick)

    def _tick(self) -> dt.datetime:
        self.clock += dt.timedelta(minutes=1)
        return self.clock

    def delete(self, keys: object) -> None:
        if self.refuses:
            raise ConnectionFailed("gone")
        if (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            meanwhile()
        super().delete(keys)  # type: ignore[arg-type]


def write(store: Store, *partitions: str, outcome: str = "published", message: str = "") -> None:
    for partition in partitions:
        result = PartitionResult.model_validate({"partition": partition, "outcome": outcome, "message": message})
        outcomes.write_outcome(store, "a", result)


def read(store: Store) -> dict[str, tuple[str, dt.datetime]]:
    return {one.result.partition: (one.result.outcome, one.at) for one in outcomes.ended(store, "a")}


def objects(store: Store) -> int:
    return sum(1 for prefix in (ids.outcomes("a"), ids.ended_pages("a")) for _ in store.list(prefix))


def test_gathered_outcomes_are_one_object_and_read_as_before_with_their_times() -> None:
    store = Store()
    write(store, "d=1", "d=2", "d=a b%2F.json")
    before = read(store)
    outcomes.gather(store, "a")
    assert objects(store) == 1
    assert read(store) == before
    assert list(outcomes.ended(store, "a", before["d=2"][1])) == [
        one for one in outcomes.ended(store, "a") if one.at >= before["d=2"][1]
    ]
    assert [outcomes.load_outcome(store, "a", name) is not None for name in ("d=1", "d=3")] == [True, False]


def test_an_outcome_after_the_gathering_is_the_last_one_and_is_gathered_again() -> None:
    store = Store()
    write(store, "d=1", "d=2")
    outcomes.gather(store, "a")
    write(store, "d=2", "d=3", outcome="failed")
    last = {"d=1": "published", "d=2": "failed", "d=3": "failed"}
    assert {name: outcome for name, (outcome, _) in read(store).items()} == last
    outcomes.gather(store, "a")
    assert objects(store) == 2
    assert {name: outcome for name, (outcome, _) in read(store).items()} == last


def test_an_interrupted_gathering_loses_and_doubles_nothing() -> None:
    store = Store()
    write(store, "d=1", "d=2")
    before = read(store)
    store.refuses = True
    with pytest.raises(ConnectionFailed):
        outcomes.gather(store, "a")
    assert read(store) == before
    assert sum(1 for _ in outcomes.outcomes(store, "a")) == 2
    store.refuses = False
    outcomes.gather(store, "a")
    assert read(store) == before


def test_many_outcomes_take_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_PAGE", 3)
    store = Store()
    write(store, *(f"d={number}" for number in range(8)))
    before = read(store)
    outcomes.gather(store, "a")
    assert (objects(store), read(store)) == (3, before)


def test_two_that_gather_at_once_lose_and_double_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that was taken for dead goes on beside the next one, which has gathered all meanwhile."""
    monkeypatch.setattr(outcomes, "_PAGE", 3)
    store = Store()
    write(store, *(f"d={number}" for number in range(8)))
    before = read(store)
    store.meanwhile = lambda: outcomes.gather(store, "a")
    outcomes.gather(store, "a")
    assert read(store) == before
    assert sum(1 for _ in outcomes.outcomes(store, "a")) == len(before)


def test_an_amended_outcome_is_another_one_wherever_it_lies_and_keeps_its_time() -> None:
    store = Store()
    write(store, "d=1", "d=2", outcome="failed", message="row 17 of Ann")
    outcomes.gather(store, "a")
    write(store, "d=3", outcome="failed", message="row 18 of Ann")
    times = {name: at for name, (_, at) in read(store).items() if name != "d=3"}

    def silent(result: PartitionResult) -> PartitionResult:
        return result.model_copy(update={"message": ""})

    assert outcomes.amend(store, "a", ["d=1", "d=3"], silent)
    assert {one.partition: one.message for one in outcomes.outcomes(store, "a")} == {
        "d=1": "", "d=2": "row 17 of Ann", "d=3": "",
    }  # fmt: skip
    assert {name: at for name, (_, at) in read(store).items() if name != "d=3"} == times
    assert not outcomes.amend(store, "a", ["d=1", "d=3"], silent)


def test_the_catalogue_is_the_same_after_the_gathering() -> None:
    store = Store()
    write(store, "d=1", "d=2")
    before = catalogue.attempts(store)
    outcomes.gather(store, "a")
    assert catalogue.attempts(store).equals(before)
    write(store, "d=2", outcome="failed")
    assert dict(catalogue.attempts(store).select("partition", "outcome").iter_rows()) == {
        "d=1": "published", "d=2": "failed",
    }  # fmt: skip
