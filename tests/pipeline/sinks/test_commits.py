"""The commit protocol under races, lost replies and zombies: one winner, no mixture, no false conflict."""

from __future__ import annotations

import datetime as dt
import random
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import stamina

from pipeline.sinks.commits import commit, current, fence, history, read_commit, reopen
from pipeline.stores import MemoryStore, Store, open_store
from schemas import ids
from schemas.errors import Cancelled, CommitConflict, ObjectExists, StoreError, StoreRefused
from schemas.manifest import FORMAT, Counts, DataFile, Manifest
from tests.harness.fault_proxy import FaultProxy
from tests.harness.servers import SeaweedS3

DAY = "day=2026-11-01"
NOW = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)
ATTEMPTS = 16


@pytest.fixture(scope="module")
def seaweed_bucket(seaweed: SeaweedS3) -> str:
    return seaweed.bucket("commits")


@pytest.fixture(params=["memory", "local", "seaweed"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "seaweed":
        for name, value in request.getfixturevalue("seaweed").env().items():
            monkeypatch.setenv(name, value)
        bucket = request.getfixturevalue("seaweed_bucket")
        opened = open_store(f"s3://{bucket}/{uuid.uuid4().hex}")
    else:
        opened = MemoryStore() if request.param == "memory" else open_store(str(tmp_path))
    yield opened
    opened.close()


def draft(base: int = 0, *, run: str = "run", content: str = "content", nonce: str = "", **other: Any) -> Manifest:
    named = {
        "kind": "published",
        "pipeline": "reviews",
        "partition": DAY,
        "stage_fingerprints": {"s": content},
        **other,
    }
    file = DataFile(key=f"data/{DAY}/{content}.parquet", size=1, sha256=content, rows=1)
    times = {"started_at": NOW, "committed_at": NOW}
    numbers = {"generation": base + 1, "parent": base or None, "nonce": nonce or uuid.uuid4().hex}
    return Manifest.model_validate(
        {"files": (file,), "content_digest": content, "run": run, **times, **numbers, **named}
    )


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Pauses are for the real thing."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


def cancel(store: Store, run: str = "run", **options: Any) -> str:
    return fence(store, DAY, **{"run": run, "pipeline": "reviews", "nonce": uuid.uuid4().hex, **options})


# Outcomes ----------------------------------------------------------------------------------------------------------


def test_the_highest_generation_is_current(store: Store) -> None:
    assert current(store, DAY) is None
    made = [commit(store, draft(base, content=str(base))).manifest for base in range(12)]
    assert current(store, DAY) == made[-1]
    assert current(store, DAY, known=9) == current(store, DAY, known=12) == made[-1]
    assert list(history(store, DAY)) == made
    assert list(history(store, DAY, after=10)) == made[10:]
    assert read_commit(store, DAY, 3) == made[2]
    assert read_commit(store, DAY, 13) is None
    assert current(store, "day=2026-11") is None


def test_a_rival_with_the_same_content_is_adopted(store: Store) -> None:
    winner = commit(store, draft(run="first")).manifest
    adopted = commit(store, draft(run="second"))
    assert (adopted.how, adopted.manifest) == ("adopted", winner)


def test_a_rival_with_other_content_is_named(store: Store) -> None:
    winner = commit(store, draft(run="first")).manifest
    with pytest.raises(CommitConflict, match=r"Generation 1 .* run 'first'") as caught:
        commit(store, draft(run="second", content="other"))
    assert caught.value.winner == winner
    assert reopen(store, DAY, base=0) == winner


def test_contents_without_a_digest_are_never_taken_for_equal(store: Store) -> None:
    commit(store, draft(content_digest=""))
    with pytest.raises(CommitConflict):
        commit(store, draft(content_digest=""))


def test_committing_again_is_committing_once(store: Store) -> None:
    same = draft()
    assert commit(store, same) == commit(store, same)
    assert len(list(history(store, DAY))) == 1


def test_a_manifest_of_a_later_version_is_not_guessed_at(store: Store) -> None:
    store.put_new(ids.commit(DAY, 1), draft(format=FORMAT + 1).model_dump_json().encode())
    for ask in (lambda: current(store, DAY), lambda: commit(store, draft())):
        with pytest.raises(StoreError, match="Upgrade Tandem"):
            ask()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format": "x"}', b'{"format": 1}', b"\xff"])
def test_what_is_no_manifest_is_named(data: bytes) -> None:
    store = MemoryStore()
    store.put(ids.commit(DAY, 1), data)
    with pytest.raises(StoreRefused, match=r"commits/day=2026-11-01/0{19}1.json is damaged"):
        current(store, DAY)


# Races -------------------------------------------------------------------------------------------------------------


def race(store: Store, generations: int) -> None:
    """Sixteen writers, of four contents, for each generation."""
    with ThreadPoolExecutor(ATTEMPTS) as threads:
        for base in range(generations):
            start = threading.Barrier(ATTEMPTS)

            def write(
                number: int, base: int = base, start: threading.Barrier = start
            ) -> tuple[str, str, Manifest | None]:
                mine = draft(base, run=f"run-{number}", content=f"{base}-{number % 4}")
                start.wait()
                try:
                    done = commit(store, mine)
                    return done.how, mine.content_digest, done.manifest
                except CommitConflict as lost:
                    return "conflict", mine.content_digest, lost.winner

            outcomes = list(threads.map(write, range(ATTEMPTS)))
            winner = read_commit(store, DAY, base + 1)
            assert winner is not None
            assert all(seen == winner for _, _, seen in outcomes)
            assert Counter(how for how, _, _ in outcomes) == {"committed": 1, "adopted": 3, "conflict": 12}
            assert all((how == "conflict") == (content != winner.content_digest) for how, content, _ in outcomes)
    assert [manifest.generation for manifest in history(store, DAY)] == list(range(1, generations + 1))


def test_of_sixteen_writers_one_commits_and_the_others_know(store: Store) -> None:
    race(store, 2)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_of_sixteen_writers_one_commits_and_the_others_know_at_full_size(store: Store) -> None:
    race(store, 20 if store.uri.startswith("s3:") else 100)


# Lost replies ------------------------------------------------------------------------------------------------------


class Script:
    """Raises at the calls of one operation, by number (from 1)."""

    def __init__(self, operation: str, *calls: int, error: Exception | None = None) -> None:
        self.operation, self.calls, self.count = operation, calls, 0
        self.error = error or StoreError("the connection was lost")

    def __call__(self, operation: str, key: str) -> None:
        if operation == self.operation:
            self.count += 1
            if self.count in self.calls:
                raise self.error


@pytest.mark.parametrize("error", [StoreError("lost"), ObjectExists("an own retry"), TimeoutError("slow"), None])
def test_a_lost_reply_is_a_commit_and_no_conflict(error: Exception | None) -> None:
    store = MemoryStore(fault=Script("put_new done", 1, error=error))
    mine = draft()
    assert commit(store, mine).how == "committed"
    assert current(store, DAY) == mine


def test_a_put_that_did_not_arrive_is_repeated() -> None:
    script = Script("put_new", 1, 2, 3, 4)
    assert commit(MemoryStore(fault=script), draft()).how == "committed"
    assert script.count == 5


def test_puts_are_bounded_and_the_outcome_is_told() -> None:
    script = Script("put_new", *range(1, 100))
    store = MemoryStore(fault=script)
    with pytest.raises(StoreError, match="is not committed: 5 puts failed and it was absent"):
        commit(store, draft())
    assert script.count == 5


def test_an_outcome_that_cannot_be_read_is_unknown_and_repeating_settles_it() -> None:
    faults = [Script("put_new done", 1), Script("get", *range(1, 6))]

    def both(operation: str, key: str) -> None:
        for fault in faults:
            fault(operation, key)

    store = MemoryStore(fault=both)
    mine = draft()
    with pytest.raises(StoreError, match=r"generation 1 of .* is unknown") as caught:
        commit(store, mine)
    assert caught.value.retryable
    assert commit(store, mine).how == "committed"
    assert len(list(history(store, DAY))) == 1


def test_a_refusal_is_not_repeated() -> None:
    script = Script("put_new", *range(1, 100), error=StoreRefused("access is denied", hint="Check AWS_PROFILE."))
    with pytest.raises(StoreRefused, match="AWS_PROFILE"):
        commit(MemoryStore(fault=script), draft())
    assert script.count == 1


def test_a_reply_lost_on_a_real_server_is_a_commit(
    seaweed: SeaweedS3, seaweed_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy.start(seaweed.port) as proxy:
        for name, value in seaweed.env(proxy.url).items():
            monkeypatch.setenv(name, value)
        store = open_store(f"s3://{seaweed_bucket}/{uuid.uuid4().hex}")
        proxy.set(drop_reply={"method": "PUT", "nth": [1, 2, 4]}, error={"method": "PUT", "nth": 3})
        outcomes = [commit(store, draft(base)).how for base in range(4)]
        assert outcomes == ["committed"] * 4
        assert (proxy.stats().dropped, proxy.stats().errors, proxy.stats().requests["PUT"]) == (3, 1, 5)
        store.close()


# Cancelling --------------------------------------------------------------------------------------------------------


def test_a_zombie_cannot_commit_after_the_fence(store: Store) -> None:
    parent = commit(store, draft(run="before", counts=Counts(rows_in=1, ok=1), input_fingerprint="i")).manifest
    zombie = draft(1, content="zombie")
    assert cancel(store, base=1) == "fenced"
    with pytest.raises(Cancelled, match="tombstone of cancelled run 'run'"):
        commit(store, zombie)
    with pytest.raises(Cancelled):
        reopen(store, DAY, base=1)
    tombstone = current(store, DAY)
    assert tombstone is not None
    assert (tombstone.kind, tombstone.parent, tombstone.run) == ("tombstone", 1, "run")
    same = {"files", "rejects", "index", "counts", "input_fingerprint", "stage_fingerprints", "schema_fingerprint"}
    assert tombstone.model_dump(include=same) == parent.model_dump(include=same)
    assert tombstone.present


def test_a_commit_that_came_first_is_told(store: Store) -> None:
    commit(store, draft())
    assert cancel(store, base=0) == cancel(store) == "committed_first"
    assert cancel(store, run="other", base=0) == "fenced"


def test_a_tombstone_without_an_ancestor_publishes_nothing_and_is_built_upon(store: Store) -> None:
    assert cancel(store) == "fenced"
    tombstone = current(store, DAY)
    assert tombstone is not None
    assert not tombstone.present
    with pytest.raises(Cancelled):
        commit(store, draft())
    assert commit(store, draft(1, run="next")).how == "committed"


def test_fencing_twice_makes_one_tombstone(store: Store) -> None:
    for _ in range(2):
        assert cancel(store, nonce="the cancel") == "fenced"
        assert cancel(store, base=0) == "fenced"
    assert len(list(history(store, DAY))) == 1


def test_a_run_that_was_resumed_is_fenced_anew() -> None:
    """The tombstone of its first cancel is its base now, and fences nothing."""
    store = MemoryStore()
    cancel(store)
    assert cancel(store, base=1) == "fenced"
    assert len(list(history(store, DAY))) == 2


def test_a_tombstone_over_a_partial_generation_leaves_it_due() -> None:
    store = MemoryStore()
    commit(store, draft(kind="partial", input_fingerprint="i"))
    cancel(store, run="other", base=1)
    tombstone = current(store, DAY)
    assert tombstone is not None
    assert tombstone.input_fingerprint == ""


@pytest.mark.parametrize("content", ["as before", "other"])
def test_a_fence_that_loses_to_a_rival_goes_on_top_of_it(content: str) -> None:
    """The zombie might build on the rival otherwise, even on one that repeats the parent's content."""
    store = MemoryStore()
    commit(store, draft(run="before", content="as before"))
    rivals = [draft(1, run="rival", content=content)]

    def intrude(operation: str, key: str) -> None:
        if operation == "put_new" and rivals:
            store.put(key, rivals.pop().model_dump_json().encode())

    store.fault = intrude
    assert cancel(store, base=1) == "fenced"
    assert [manifest.kind for manifest in history(store, DAY)] == ["published", "published", "tombstone"]


def test_racing_commit_and_fence_agree(store: Store) -> None:
    for turn in range(6):
        seen = current(store, DAY)
        base = seen.generation if seen else 0
        with ThreadPoolExecutor(2) as threads:
            mine = draft(base, run=f"run-{turn}", content=str(turn))
            committing = threads.submit(commit, store, mine)
            fenced = threads.submit(cancel, store, run=f"run-{turn}", base=base).result()
            assert (committing.exception() is None) == (fenced == "committed_first")
            assert isinstance(committing.exception(), Cancelled | None)


# Simulation --------------------------------------------------------------------------------------------------------


class Simulation:
    """Three writers and a cancel of the first one's run, in threads of which one runs at a time: at each call to the
    store the seed chooses who goes on, and whether the call fails before or after its effect."""

    def __init__(self, seed: int) -> None:
        self.chooser = random.Random(seed)
        self.rate = self.chooser.choice([0.0, 0.1, 0.3, 0.6])
        self.store = MemoryStore(fault=self._call, now=lambda: NOW)
        self.outcomes: dict[str, str] = {}
        self._turns: dict[str, threading.Semaphore] = {}
        self._idle = threading.Semaphore(0)

    def run(self) -> None:
        actors = [threading.Thread(target=self._act, args=(f"run-{number}",), name=f"{number}") for number in range(3)]
        actors.append(threading.Thread(target=self._cancel, name="cancel"))
        self._turns = {actor.name: threading.Semaphore(0) for actor in actors}
        for actor in actors:
            actor.start()
            self._idle.acquire()
        while self._turns:
            self._turns[self.chooser.choice(list(self._turns))].release()
            self._idle.acquire()
        for actor in actors:
            actor.join()
        self.store.fault = lambda operation, key: None

    def _call(self, operation: str, key: str) -> None:
        self._pause()
        if self.chooser.random() < self.rate:
            raise StoreError("the connection was lost")

    def _pause(self) -> None:
        self._idle.release()
        self._turns[threading.current_thread().name].acquire()

    def _act(self, run: str) -> None:
        self._pause()
        content = self.chooser.choice("xy")
        try:
            outcome = self._commit_or_reopen(run, content)
        except (Cancelled, StoreError, CommitConflict) as exc:
            outcome = "unknown" if "unknown" in str(exc) else type(exc).__name__
        self._end(run, outcome)

    def _commit_or_reopen(self, run: str, content: str) -> str:
        try:
            return commit(self.store, draft(run=run, content=content)).how
        except CommitConflict:
            newest = reopen(self.store, DAY, base=0)
            base = newest.generation if newest else 0
            return commit(self.store, draft(base, run=run, content=f"{content} on {base}")).how

    def _cancel(self) -> None:
        self._pause()
        try:
            outcome = cancel(self.store, run="run-0", base=0)
        except StoreError:
            outcome = "unknown"
        self._end("cancel", outcome)

    def _end(self, actor: str, outcome: str) -> None:
        self.outcomes[actor] = outcome
        del self._turns[threading.current_thread().name]
        self._idle.release()


def simulate(seed: int) -> None:
    simulation = Simulation(seed)
    simulation.run()
    kept, outcomes = list(history(simulation.store, DAY)), simulation.outcomes
    published = Counter(manifest.run for manifest in kept if manifest.kind == "published")
    said = f"seed {seed}: {outcomes}, kept {[(manifest.kind, manifest.run) for manifest in kept]}"
    assert len(outcomes) == 4, said
    assert [manifest.generation for manifest in kept] == list(range(1, len(kept) + 1)), said
    assert max(published.values(), default=0) <= 1, said
    assert sum(manifest.kind == "tombstone" for manifest in kept) <= 1, said
    for actor, outcome in outcomes.items():
        if actor != "cancel" and outcome != "unknown":
            assert published[actor] == (outcome == "committed"), said
    if outcomes["cancel"] in ("fenced", "committed_first"):
        assert published["run-0"] == (outcomes["cancel"] == "committed_first"), said


def test_any_interleaving_with_any_fault_keeps_the_promises() -> None:
    for seed in range(500):
        simulate(seed)


@pytest.mark.prove
def test_ten_thousand_interleavings_keep_the_promises() -> None:
    for seed in range(10_000):
        simulate(seed)


def test_a_draft_is_kept_word_for_word(store: Store) -> None:
    mine = draft(content="é 😀", warnings=("a\nb",))
    assert commit(store, mine).manifest == read_commit(store, DAY, 1) == mine
