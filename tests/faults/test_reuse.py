"""Reuse across kills and runs: a graph of several calls, new rows, a changed prompt, poison, a damaged journal."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import polars as pl
import pytest

from tests.cli.support import eventually
from tests.faults.conftest import MakeRig
from tests.faults.rig import IN_FLIGHT, Rig, Twins, measured, table

# Real processes and real seconds.
pytestmark = pytest.mark.timeout(900)

_AGENT = """
    from typing import TypedDict
    from langgraph.graph import END, START, StateGraph

    PROMPTS = ["step 1: read", "step 2: think", "step 3: {third}", "step 4: doubt", "step 5: answer"]

    class State(TypedDict, total=False):
        body: str
        notes: str
        draft: str

    def graph(model):
        def step(number):
            async def node(state):
                said = await model.ainvoke(f"{PROMPTS[number]}\\n{state.get('notes', '')}\\n{state['body']}")
                key = "draft" if number == 4 else "notes"
                return {key: f"{state.get('notes', '')} {said.content}"}
            return node

        builder = StateGraph(State)
        before = START
        for number in range(5):
            builder.add_node(f"step{number}", step(number))
            builder.add_edge(before, f"step{number}")
            before = f"step{number}"
        builder.add_edge(before, END)
        return builder.compile()
"""
_STAGE = {"uses": "agent:graph", "output": {"draft": "str"}}


def an_agent(make_rig: MakeRig, rows: pl.DataFrame, *, third: str = "plan", **options: Any) -> Rig:
    """A rig whose stage is a user's graph with five calls in a row."""
    rig = make_rig(rows, stage=_STAGE, **options)
    del rig.spec["stages"][0]["prompt"]
    rig.write()
    write_agent(rig, third)
    return rig


def write_agent(rig: Rig, third: str) -> None:
    (rig.folder / "agent.py").write_text(dedent(_AGENT.replace("{third}", third)))


def test_an_agent_killed_in_its_fourth_call_pays_for_the_fourth_and_fifth_only(make_rig: MakeRig, twins: Twins) -> None:
    slow = ({"match": "step 4", "action": "text", "text": "hm", "times": 8, "latency_ms": 4000},)
    hm = ({"match": "step 4", "action": "text", "text": "hm"},)
    rig = an_agent(make_rig, table(8, parts=1), latency_ms=50, rules=(*slow, *hm))
    twin = twins.of(rig, rules=hm)
    assert twin.calls == 40
    with rig.read():
        with rig.run() as process:
            eventually(lambda: rig.model.stats().answered_ok == 24 and rig.model.stats().in_flight == 8, "call four")
            process.end(signal.SIGKILL)
        before = rig.model.stats().requests
        report = rig.finish().json
    rig.check(twin, again=0)
    again = rig.model.stats().requests - before
    measured("agent", asked_again=again, billed=rig.billed, needed=twin.calls, usage=report["usage"])
    assert again == 16
    assert rig.billed == 40


@pytest.mark.prove
def test_a_changed_third_prompt_costs_the_third_call_onward(make_rig: MakeRig, twins: Twins) -> None:
    rig = an_agent(make_rig, table(20), latency_ms=5)
    rig.finish()
    assert rig.billed == 100
    write_agent(rig, "draw")
    again = twins.of(rig)
    report = rig.finish().json
    measured("third prompt changed", paid=rig.billed - 100, usage=report["usage"], reuse=report["journal"])
    assert rig.billed == 160
    assert report["usage"]["calls"] == 60
    assert report["journal"]["calls_reused"] == 40
    rig.check(again, again=60, published=2)


def test_ten_more_rows_cost_ten_calls(make_rig: MakeRig, twins: Twins) -> None:
    rig = make_rig(table(120), latency_ms=5)
    with rig.read():
        rig.finish()
        assert rig.billed == 120
        more = table(130).tail(10).with_columns(part=pl.lit("p1"))
        rig.rows = pl.concat([rig.rows, more])
        rig.write()
        report = rig.finish().json
    assert rig.billed == 130
    assert report["usage"]["calls"] == 10
    assert report["journal"]["rows_reused"] == 60
    twin = twins.of(rig)
    with pytest.raises(AssertionError, match="I1 part=p0 was published 1 times"):
        rig.check(twin, published=2)  # the other partition did not change
    rig.check(twin, again=0, due=False)
    assert report["partitions"]["published"] == report["partitions"]["unchanged"] == 1
    measured("+10 rows", paid=rig.billed - 120, usage=report["usage"], reuse=report["journal"])


@pytest.mark.prove
def test_poison_rows_are_rejected_with_one_call_each(make_rig: MakeRig, twins: Twins) -> None:
    """Some rows get HTTP 400, before and after a kill: just these are rejected, each asked for once."""
    poison = ({"match": "poison", "action": "error", "status": 400},)
    rig = make_rig(table(600, poison=60), latency_ms=100, rules=poison)
    twin = twins.of(rig, rules=poison)
    with rig.read():
        with rig.run() as process:
            rig.answered(300)
            moment = time.time()
            process.end(signal.SIGKILL)
        report = rig.finish().json
    seen = rig.check(twin, again=IN_FLIGHT)
    asked = [call for call in rig.calls() if call.status == 400]
    wanted = set(rig.rows.filter(pl.col("body").str.contains("poison"))["id"].to_list())
    assert {key for keys in seen.rejects.values() for key in keys} == {f'{{"id":{number}}}' for number in wanted}
    assert len(wanted) == 10
    # Answered, and killed before that was noted: in flight, as far as anybody can know.
    unread = sum(call.t_end is not None and moment - 0.25 < call.t_end < moment + 0.25 for call in asked)
    assert len({call.digest for call in asked}) == 10 <= len(asked) <= 10 + unread
    measured("poison", rejected=report["rows"]["rejected"], asked=len(asked), billed=rig.billed, needed=twin.calls)


# A damaged journal ---------------------------------------------------------------------------------------------------


def segments(rig: Rig) -> list[Path]:
    return sorted(
        (rig.folder / "out" / "_tandem" / "journal").glob("**/*.jsonl"), key=lambda path: -path.stat().st_size
    )


def tear(path: Path, lines: int = 3) -> None:
    """Flip a byte in the last lines of a segment."""
    found = path.read_bytes().rstrip(b"\n").split(b"\n")
    for at in range(-lines, 0):
        found[at] = found[at][:40] + bytes([found[at][40] ^ 1]) + found[at][41:]
    path.write_bytes(b"\n".join(found) + b"\n")


@pytest.mark.prove
def test_a_torn_segment_between_kill_and_restart_costs_its_records_and_is_named(
    make_rig: MakeRig, twins: Twins
) -> None:
    rig = make_rig(table(800))
    twin = twins.of(rig)
    with rig.read():
        with rig.run() as process:
            rig.answered(300)
            process.end(signal.SIGKILL)
        victim = segments(rig)[0]
        tear(victim)
        rig.finish()
    seen = rig.check(twin, again=IN_FLIGHT + 3, untold=3, warned=True)
    measured("torn segment", billed=rig.billed, needed=twin.calls, warnings=seen.warnings)
    assert any(victim.name in warning for warning in seen.warnings), seen.warnings


def _after_damage(make_rig: MakeRig, twins: Twins, damage: Any) -> tuple[Rig, Any, list[str]]:
    """A finished run, its journal damaged, and the next run over one more row in each partition."""
    rig = make_rig(table(40), latency_ms=5)
    rig.finish()
    named = damage(rig)
    more = table(42).tail(2).with_columns(part=pl.Series(["p0", "p1"]))
    rig.rows = pl.concat([rig.rows, more])
    rig.write()
    twin = twins.of(rig)
    report = rig.finish().json
    seen = rig.check(twin, again=rig.billed - twin.calls, published=2, warned=True)
    for name in named:
        assert any(name in warning for warning in seen.warnings), (name, seen.warnings)
    measured("damage", billed=rig.billed, needed=twin.calls, warnings=seen.warnings, usage=report["usage"])
    return rig, report, seen.warnings


def _forget_compacted(rig: Rig) -> None:
    """Leave only the segments, so that what is wrong with them counts."""
    for path in (rig.folder / "out" / "_tandem" / "journal").glob("**/compact-*.parquet"):
        path.unlink()


@pytest.mark.prove
def test_a_torn_segment_costs_the_next_run_only_its_records(make_rig: MakeRig, twins: Twins) -> None:
    def damage(rig: Rig) -> list[str]:
        _forget_compacted(rig)
        victim = segments(rig)[0]
        tear(victim, lines=2)
        return [victim.name]

    rig, report, _ = _after_damage(make_rig, twins, damage)
    assert report["usage"]["calls"] <= 2 + 2
    assert rig.billed <= 40 + 2 + 2


def test_a_journal_of_another_version_is_refused_and_not_misread(make_rig: MakeRig, twins: Twins) -> None:
    def damage(rig: Rig) -> list[str]:
        _forget_compacted(rig)
        for path in segments(rig):
            path.write_bytes(path.read_bytes().replace(b'{"tandem_journal":1}', b'{"tandem_journal":2}', 1))
        return [path.name for path in segments(rig)]

    rig, report, _ = _after_damage(make_rig, twins, damage)
    assert report["usage"]["calls"] == 42  # none of its records was used
    assert rig.billed == 82


@pytest.mark.prove
def test_a_broken_compacted_journal_is_named_and_costs_nothing_that_its_segments_hold(
    make_rig: MakeRig, twins: Twins
) -> None:
    def damage(rig: Rig) -> list[str]:
        found = list((rig.folder / "out" / "_tandem" / "journal").glob("**/compact-*.parquet"))
        for path in found:
            path.write_bytes(path.read_bytes()[:-20])
        return [path.name for path in found]

    rig, report, _ = _after_damage(make_rig, twins, damage)
    assert report["usage"]["calls"] == 2
    assert rig.billed == 42
