"""How a run that is at work is told in one line."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from pipeline.cli.screen import live
from pipeline.cli.screen.live import status
from pipeline.client.live_figures import RowRate
from pipeline.client.work_in_progress import WorkInProgress
from schemas.manifest import Usage
from schemas.messages.run import Progress, Totals


def told(**changed: Any) -> Progress:
    totals = Totals(total=3, usage=Usage(calls=10, cost_usd=0.4))
    said = {"state": "running", "detail": "1 of 3 done", "totals": totals, "rows_total": 30, "rows_done": 10}
    return Progress.model_validate({**said, "rejected": 1, "running": (), **changed})


@pytest.mark.parametrize(
    ("budget", "spent"), [(None, "10 calls, 0.4000 USD, 1 rejected"), (1.0, "10 calls, 0.4000 USD of 1.00 USD, 1")]
)
def test_money_is_told_against_the_budget(budget: float | None, spent: str) -> None:
    work = WorkInProgress(told())
    work.budget_usd = budget
    pace = RowRate()
    for at, rows in ((0.0, 0), (5.0, 10)):
        pace.note(at, rows)
    said = status(told(), work, pace)
    assert said.startswith("10 of 30 rows; 1 of 3 done; 2 rows/s, about 10 s left; ")
    assert spent in said


def test_a_narrow_terminal_shows_what_is_waited_for_and_until_when(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(live, "err", Console(file=out, width=80, force_terminal=True))
    waiting = (
        "5 of 60 partitions done, 55 running, 55 partitions wait for 2 provider jobs, 31,200 of 84,000 calls answered, "
        "until 2026-11-30 09:12 UTC at the latest"
    )
    view = live._Live()
    with view.shown():
        view.update(told(detail=waiting), WorkInProgress(told()), RowRate())
    found = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[━╸╺]", " ", out.getvalue()).split())
    assert "55 partitions wait for 2 provider jobs" in found
    assert "until 2026-11-30 09:12 UTC at the latest" in found


def test_before_there_is_a_plan_only_that_is_told() -> None:
    planning = told(rows_total=0, detail="planning")
    assert status(planning, WorkInProgress(planning), RowRate()) == "planning"
