"""A run's lineage agrees with its report and its manifests, to the unit, whatever happened on the way."""

from __future__ import annotations

import gzip
import json
import signal
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from tests.cli.support import Project
from tests.cli.test_metrics import a_project
from tests.cli.test_processes import workers_of
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(600)
TASK = "airflow/dag.task/01890a5d-ac96-774b-bcce-b302099a8057"
CANARY = "c4n4ry"


def events_in(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "lineage.ndjson").read_text().splitlines()]


def to_a_file(project: Project) -> dict[str, str]:
    return {
        "OPENLINEAGE__TRANSPORT__TYPE": "file", "OPENLINEAGE__TRANSPORT__APPEND": "true",
        "OPENLINEAGE__TRANSPORT__LOG_FILE_PATH": str(project.folder / "lineage.ndjson"),
    }  # fmt: skip


def agrees(event: Any, report: Any, sink: Path) -> None:
    (read,), (wrote,) = event["inputs"], event["outputs"]
    assert read["inputFacets"]["inputStatistics"]["rowCount"] == report["rows"]["in"]
    published = [json.loads(max(folder.glob("*.json")).read_text()) for folder in sink.glob("_tandem/commits/*")]
    files = [file for one in published if one["run"] == report["run"] for file in one["files"]]
    statistics = wrote["outputFacets"]["outputStatistics"]
    assert statistics["rowCount"] == report["rows"]["out"] == sum(file["rows"] for file in files)
    assert (statistics["size"], statistics["fileCount"]) == (sum(file["size"] for file in files), len(files))
    assert statistics["size"] == sum((sink / file["key"]).stat().st_size for file in files)
    facet = event["run"]["facets"]["tandem_report"]
    assert facet["rows"] == {name: report["rows"][name] for name in facet["rows"]}
    assert facet["usage"] == {name: report["usage"][name] for name in facet["usage"]}
    assert facet["partitions"] == report["partitions"]
    assert facet["journal"] == report["journal"]


def test_events_agree_with_the_report_and_the_manifests_when_workers_and_the_command_are_killed(
    tmp_path: Path, model_server: ModelServer
) -> None:
    faults = [{"match": "number 8 ", "action": "refusal"}]
    project = a_project(tmp_path, model_server, 120, latency_ms=200, rules=faults)
    text = (tmp_path / "rows.csv").read_text().replace("about", CANARY)
    (tmp_path / "rows.csv").write_text(text)
    project.env.update(to_a_file(project), OPENLINEAGE_PARENT_ID=TASK, OPENAI_API_KEY=f"sk-{CANARY}")
    project.spec["checks"] = [
        {"name": "few", "sql": "id < 100", "severity": "warn"}, {"name": "any", "sql": "id >= 0"},
    ]  # fmt: skip
    project.write()
    with project.start("run", "--processes", "2") as run:
        while model_server.stats().answered_ok < 30:
            assert run.process.poll() is None
        with suppress(psutil.NoSuchProcess, ValueError):
            workers_of(run.process.pid)[0].send_signal(signal.SIGKILL)
        while model_server.stats().answered_ok < 60:
            assert run.process.poll() is None
        run.end(signal.SIGKILL)
    report = project.tandem("run", "--json", "--processes", "2").ok().json
    assert report["rows"] == {**report["rows"], "in": 120, "ok": 119, "rejected": 1, "out": 119}
    events = events_in(tmp_path)
    assert {event["run"]["runId"] for event in events} == {events[0]["run"]["runId"]}
    assert (events[0]["eventType"], events[-1]["eventType"]) == ("START", "COMPLETE")
    assert [event["eventType"] for event in events].count("COMPLETE") == 1
    agrees(events[-1], report, tmp_path / "out")
    assert events[-1]["run"]["facets"]["parent"]["job"]["name"] == "dag.task"
    assert events[-1]["inputs"][0]["name"] == str(tmp_path / "rows.csv")
    assert events[-1]["outputs"][0]["name"] == str(tmp_path / "out/data")
    lineage = events[-1]["outputs"][0]["facets"]["columnLineage"]["fields"]
    assert [one["field"] for one in lineage["mood"]["inputFields"]] == ["body"]
    checks = {one["name"]: one for one in events[-1]["outputs"][0]["facets"]["dataQualityAssertions"]["assertions"]}
    assert (checks["few"]["success"], checks["few"]["actual"], checks["any"]["success"]) == (False, "20", True)
    assert CANARY not in (tmp_path / "lineage.ndjson").read_text()


def test_a_run_that_a_check_stops_fails_with_its_reason(tmp_path: Path) -> None:
    project = Project.make(tmp_path, count=6)
    project.env.update(to_a_file(project))
    project.spec["checks"] = [{"name": "none", "sql": "id < 0"}]
    project.write()
    failed = project.tandem("run", "--json")
    assert failed.code == 1
    last = events_in(tmp_path)[-1]
    assert last["eventType"] == "FAIL"
    assert "ChecksFailed" in last["run"]["facets"]["errorMessage"]["message"]
    agrees(last, failed.json, tmp_path / "out")


class _Backend(BaseHTTPRequestHandler):
    """An OpenLineage backend: it keeps what is posted."""

    received: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.received.append(json.loads(body))
        self.send_response(201)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_run_that_is_cancelled_ends_with_an_abort_at_a_backend(tmp_path: Path, model_server: ModelServer) -> None:
    project = a_project(tmp_path, model_server, 400, latency_ms=2_000)
    _Backend.received.clear()
    with HTTPServer(("127.0.0.1", 0), _Backend) as backend:
        threading.Thread(target=backend.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{backend.server_address[1]}"
        project.env.update({"OPENLINEAGE__TRANSPORT__TYPE": "http", "OPENLINEAGE__TRANSPORT__URL": url})
        with project.start("run", "--json") as run:
            while model_server.stats().answered_ok < 20:
                assert run.process.poll() is None
            project.tandem("runs", "cancel").ok()
            report = run.wait().json
        backend.shutdown()
    assert report["state"] == "cancelled"
    assert [event["eventType"] for event in _Backend.received] == ["START", "RUNNING", "ABORT"]
    agrees(_Backend.received[-1], report, tmp_path / "out")
