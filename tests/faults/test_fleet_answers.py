"""Equal rows in partitions that different commands work on."""

from __future__ import annotations

import polars as pl
import pytest

from schemas import ids
from tests.faults.conftest import MakeRig
from tests.faults.rig import KEY, PART, measured
from tests.harness.ledger import Call
from tests.harness.servers import TemporalServer

pytestmark = pytest.mark.timeout(300)
PARTS, TEXTS, IN_FLIGHT, LATENCY_S = 4, 400, 16, 1.0


def known_after(calls: list[Call]) -> float:
    """The longest time after an answer in which its text was still asked again, in seconds."""
    by_text: dict[str, list[Call]] = {}
    for call in calls:
        by_text.setdefault(call.message, []).append(call)
    late = [
        max(call.t_start for call in same) - min(call.t_end for call in same if call.t_end is not None)
        for same in by_text.values()
    ]
    return round(max(0.0, *late), 1)


def test_two_workers_learn_of_each_others_answers(make_rig: MakeRig, temporal_server: TemporalServer) -> None:
    """Six partitions hold the same texts in the same order. Each text is paid once, but for those that the other worker
    had answered in the seconds before, or was asking."""
    table = pl.DataFrame(
        {
            KEY: range(PARTS * TEXTS),
            PART: [f"p{n}" for n in range(PARTS) for _ in range(TEXTS)],
            "body": [f"message number {n} about a thing" for _ in range(PARTS) for n in range(TEXTS)],
        }
    )
    rig = make_rig(table, latency_ms=int(1000 * LATENCY_S), limits={"rows_in_flight": IN_FLIGHT})
    with rig.workers(temporal_server, 2), rig.run() as client:
        report = client.wait().ok().json
    lag_s = 12  # a flush, and a look of each side: two seconds, but for a busy machine
    measured("equal rows of two workers", billed=rig.billed, distinct=TEXTS, known_after_s=known_after(rig.calls()))
    assert rig.billed <= TEXTS + IN_FLIGHT * (1 + lag_s / LATENCY_S)
    assert report["journal"]["rows_shared"] == PARTS * TEXTS - rig.billed
    assert not list(rig.store.list(ids.announced(report["run"]))), "they are removed at the end"
