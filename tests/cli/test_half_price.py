"""`--tier batch`: whole commands against servers of batch jobs, which count what was submitted."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.half_price import MODEL, a_project, published, quick_jobs
from tests.cli.support import Project, eventually
from tests.cli.test_metrics import scrape, url_of
from tests.harness.model_server import ModelServer


def test_a_graph_of_three_steps_is_answered_in_three_jobs_at_half_the_price(
    tmp_path: Path, model_server: ModelServer
) -> None:
    """Values and calls are those of a live run, which then makes none."""
    quick_jobs(model_server)
    project = a_project(tmp_path / "jobs", model_server, rows=80, days=4, graph="steps")
    done = project.tandem("run", "--tier", "batch", "--json", timeout_s=240).ok().json
    jobs = model_server.jobs()
    assert [job["requests"] for job in jobs["jobs"]] == [80, 240, 80]
    assert (jobs["submitted"], jobs["most_submitted"]) == (400, 1)
    assert done["jobs"]["submitted"] == done["jobs"]["completed"] == 3
    assert done["usage"]["by_tier"] == {"batch": {"calls": 400, "cost_usd": done["usage"]["cost_usd"]}}
    assert done["usage"]["saved_usd"]["batch"] == pytest.approx(done["usage"]["cost_usd"], abs=2e-6)
    again = project.tandem("run", "--reprocess", "all", "--json").ok().json
    assert again["usage"]["calls"] == 0
    live = a_project(tmp_path / "live", model_server, rows=80, days=4, graph="steps")
    standard = live.tandem("run", "--json").ok().json
    assert published(live) == published(project)
    assert done["usage"]["calls"] == standard["usage"]["calls"] == 400
    assert done["usage"]["cost_usd"] == pytest.approx(standard["usage"]["cost_usd"] / 2, abs=2e-6)


def test_a_run_that_is_killed_while_its_job_is_out_goes_on_and_submits_it_once(
    tmp_path: Path, model_server: ModelServer
) -> None:
    """Given again at the standard tier, what is out is waited for, and what is new is asked live."""
    quick_jobs(model_server, run_s=5.0)
    project = a_project(tmp_path / "p", model_server, rows=40, days=2, graph="steps")
    with project.start("run", "--tier", "batch", "--json", "--name", "r") as first:
        eventually(lambda: bool(model_server.jobs()["jobs"]), "a job is submitted")
        first.end(signal.SIGKILL)
    done = project.tandem("run", "--json", "--name", "r", timeout_s=240).ok().json
    jobs = model_server.jobs()
    assert (len(jobs["jobs"]), jobs["submitted"], jobs["most_submitted"]) == (1, 40, 1)
    assert done["rows"]["ok"] == 40
    assert {tier: used["calls"] for tier, used in done["usage"]["by_tier"].items()} == {"batch": 40, "standard": 160}


def test_a_row_that_asks_something_else_each_time_is_rejected_by_name(
    tmp_path: Path, model_server: ModelServer
) -> None:
    quick_jobs(model_server)
    project = a_project(tmp_path / "p", model_server, rows=6, days=2, graph="random", on_reject="null")
    project.spec["limits"]["max_reject_rate"] = 1
    project.write()
    done = project.tandem("run", "--tier", "batch", "--json", timeout_s=240).ok().json
    assert (done["rows"]["rejected"], model_server.jobs()["submitted"]) == (6, 6)
    assert "not_replayable" in project.tandem("rejects", "ls").ok().out


def test_rows_that_may_have_ended_a_process_wait_for_jobs_too(tmp_path: Path, model_server: ModelServer) -> None:
    """The innocent are run alone, and no call of theirs is live; the row at fault is rejected."""
    quick_jobs(model_server)
    project = a_project(tmp_path / "p", model_server, rows=8, days=1, graph="deadly", on_reject="null")
    project.spec["limits"]["max_reject_rate"] = 0.5
    project.write()
    done = project.tandem("run", "--tier", "batch", "--json", timeout_s=240).ok().json
    assert (done["rows"]["rejected"], done["usage"]["by_tier"]["batch"]["calls"]) == (1, 15)
    assert list(done["usage"]["by_tier"]) == ["batch"]
    assert "killed_worker" in project.tandem("rejects", "ls").ok().out


def test_nodes_that_are_activities_wait_for_jobs_too(tmp_path: Path, model_server: ModelServer) -> None:
    quick_jobs(model_server)
    project = a_project(tmp_path / "p", model_server, rows=4, days=1, graph="steps", placement="node")
    done = project.tandem("run", "--tier", "batch", "--json", timeout_s=240).ok().json
    assert done["rows"]["ok"] == 4
    assert [job["requests"] for job in model_server.jobs()["jobs"]] == [4, 12, 4]


def test_a_cancelled_run_keeps_what_its_job_has_answered(tmp_path: Path, model_server: ModelServer) -> None:
    quick_jobs(model_server, run_s=60.0)
    project = a_project(tmp_path / "p", model_server, rows=20, days=2)
    serve = "--metrics", "127.0.0.1:0"
    with project.start("run", "--tier", "batch", "--json", "--name", "r", *serve) as running:
        eventually(lambda: scrape(url_of(running)).get(("tandem_jobs", "state=running")) == 1, "the job is counted")
        project.tandem("runs", "cancel", "r", timeout_s=120)
        assert running.wait().json["state"] == "cancelled"
    assert [job["state"] for job in model_server.jobs()["jobs"]] == ["cancelled"]
    shown = project.tandem("runs", "show", "r", "--json").ok().json
    assert (shown["rows"]["unfinished"], shown["jobs"]["expired"]) == (20, 1)


def test_a_job_that_does_not_fit_its_budget_is_submitted_in_part(tmp_path: Path, model_server: ModelServer) -> None:
    """The run pauses with the part out; with a higher budget the rest goes, each call once, and the sum is exact."""
    quick_jobs(model_server, run_s=2.0)
    project = a_project(tmp_path / "p", model_server, rows=40, days=2)
    project.spec["prices"] = {MODEL: {"input": 1_000, "output": 1_000}}  # half a USD per 1,000 tokens in jobs
    project.stage["params"] = {"max_tokens": 100}
    project.write()
    paused = project.tandem("run", "--tier", "batch", "--json", "--name", "r", "--max-cost", "5", timeout_s=240)
    assert (paused.code, paused.json["state"]) == (3, "paused"), paused
    assert "reserved for provider jobs that are out" in paused.err
    (part,) = model_server.jobs()["jobs"]
    assert 5 <= part["requests"] < 40
    done = project.tandem("runs", "resume", "r", "--max-cost", "100", "--json", timeout_s=240).ok().json
    jobs = model_server.jobs()
    assert (jobs["submitted"], jobs["most_submitted"], done["usage"]["calls"]) == (40, 1, 40)
    ledger = json.loads(max(project.folder.glob("out/_tandem/runs/r/budget/*.json")).read_text())
    assert ledger["slices"] == {}
    assert ledger["nanos"] / 1e9 == pytest.approx(done["usage"]["cost_usd"], abs=1e-5)


def test_a_budget_that_is_set_while_a_job_is_out_counts_it(tmp_path: Path, model_server: ModelServer) -> None:
    quick_jobs(model_server, run_s=4.0)
    project = a_project(tmp_path / "p", model_server, rows=20, days=2)
    project.spec["prices"] = {MODEL: {"input": 1_000, "output": 1_000}}
    project.write()
    with project.start("run", "--tier", "batch", "--json", "--name", "r") as first:
        eventually(lambda: bool(model_server.jobs()["jobs"]), "a job is submitted")
        project.tandem("runs", "set", "r", "--max-cost", "1000").ok()
        held = json.loads(max(project.folder.glob("out/_tandem/runs/r/budget/*.json")).read_text())["slices"]
        done = first.wait().ok().json
    assert [one["machine"] for one in held.values()] == ["provider job"]
    ledger = json.loads(max(project.folder.glob("out/_tandem/runs/r/budget/*.json")).read_text())
    assert (ledger["slices"], model_server.jobs()["submitted"]) == ({}, 20)
    assert ledger["nanos"] / 1e9 == pytest.approx(done["usage"]["cost_usd"], abs=1e-5)


def test_a_tier_that_a_model_has_not_is_refused_by_name(tmp_path: Path) -> None:
    project = Project.make(tmp_path, {"OPENAI_API_KEY": "sk-test"}, model="openai:gpt-4o-mini")
    refused = project.tandem("plan", "--tier", "flex")
    assert refused.code == 2
    assert "model 'openai:gpt-4o-mini' has no flex" in refused.err
    assert "after_deadline" in refused.err


def test_embeddings_go_by_jobs(tmp_path: Path, model_server: ModelServer) -> None:
    quick_jobs(model_server)
    project = a_project(tmp_path / "p", model_server, rows=12, days=2)
    project.spec["stages"] = [
        {"name": "vectors", "uses": "embed", "model": {"name": "openai:text-embedding-3-small", "tier": "batch"},
         "prompt": "{{ body }}", "output": {"vector": "list[float]"}}
    ]  # fmt: skip
    project.write()
    done = project.tandem("run", "--json", timeout_s=240).ok().json
    assert done["usage"]["by_tier"]["batch"]["calls"] == 12
    assert model_server.jobs()["submitted"] == 12
