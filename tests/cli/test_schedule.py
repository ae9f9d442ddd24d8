"""`tandem schedule …` on the embedded server, with `tandem dev` as the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Project, eventually

pytestmark = pytest.mark.timeout(900)


def test_a_schedule_from_apply_to_delete(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    bare = project.tandem("schedule", "apply")
    assert (bare.code, "The spec of 'tickets' has no schedule." in bare.err) == (2, True)
    project.spec["schedule"] = {"cron": "0 3 * * *", "zone": "Europe/Paris", "lookback": "52w"}
    project.write()
    with project.start("dev") as dev:
        eventually(lambda: "UI: http" in dev.out, "tandem dev")
        bad = project.tandem("schedule", "apply", "--cron", "0 99 * * *", "--json")
        assert (bad.code, bad.json["error"]["code"]) == (2, "UsageError")
        assert "'0 99 * * *'" in bad.json["error"]["message"]
        assert project.tandem("schedule", "apply", "--json").ok().json["outcome"] == "created"
        assert project.tandem("schedule", "apply", "--json").ok().json["outcome"] == "unchanged"
        changed = project.tandem("schedule", "apply", "--jitter", "1m").ok()
        assert "  jitter: 0s → 1m" in changed.out
        times = project.tandem("schedule", "next", "--count", "12", "--json").ok().json
        assert len({time["at"] for time in times}) == 12
        assert {time["local"].split()[1][:2] for time in times} == {"03"}

        assert "is triggered" in project.tandem("schedule", "trigger").ok().out
        eventually(lambda: _runs(project) == ["completed"], "the scheduled run")
        shown = project.tandem("schedule", "show", "--json").ok().json
        (fired,) = shown["recent"]
        assert (shown["spec"], shown["paused"], fired["note"]) == ("current", False, "")
        assert project.tandem("runs", "show", "--json").ok().json["run"] == fired["run"]

        project.stage["prompt"] = "Now: {{ body }}"
        project.write()
        stale = project.tandem("schedule", "trigger")
        assert stale.code == 2
        assert "The spec of 'tickets' has changed since its schedule was applied: stages." in stale.err
        assert project.tandem("schedule", "show", "--json").ok().json["spec"] == "changed"

        assert project.tandem("schedule", "pause", "--reason", "holiday", "--json").ok().json["note"] == "holiday"
        (listed,) = project.tandem("schedule", "list", "--json").ok().json
        assert (listed["pipeline"], listed["paused"]) == ("tickets", True)
        assert project.tandem("schedule", "unpause", "tickets", "--json").ok().json["paused"] is False
        assert project.tandem("schedule", "delete", "tickets", "--json").ok().json["deleted"] is True
        for command in ("show", "pause", "unpause", "trigger", "next", "delete"):
            gone = project.tandem("schedule", command, "tickets")
            assert (gone.code, "There is no schedule of 'tickets' here." in gone.err) == (2, True)


def _runs(project: Project) -> list[Any]:
    told = project.tandem("runs", "list", "--json")
    return [run["state"] for run in told.json] if told.code == 0 else []
