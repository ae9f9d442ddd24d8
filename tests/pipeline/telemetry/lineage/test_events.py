"""Events as a backend gets them, by OpenLineage's own serialisation."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from openlineage.client.serde import Serde

from pipeline.telemetry.lineage import switch
from pipeline.telemetry.lineage.datasets import Column, Dataset, Datasets, named_dataset
from pipeline.telemetry.lineage.events import Checked, Ended, RunParent, State, event, run_id
from schemas.messages.base import RunRef

REF = RunRef(pipeline="tickets", run="nightly", sink="s3://lake/tickets")
TASK = "airflow/dag.task/01890a5d-ac96-774b-bcce-b302099a8057"
DATASETS = Datasets(
    source=Dataset(namespace="file", name="/in/rows.csv", columns=(Column(name="body", type="string"),)),
    output=Dataset(
        namespace="s3://lake", name="tickets/data",
        columns=(
            Column(name="body", type="string", origins=("body",)),
            Column(name="mood", type="string", origins=("body",), by=("triage (extract)",)),
        ),
    ),
    rows=10, bytes=700, files=1,
)  # fmt: skip
ENDED = Ended(
    rows_in=10, rows_out=8, bytes=500, files=3,
    checks=[Checked("short", "warn", "length(mood) < 9", 2), Checked("keys", "block", "", 0)],
    report={"run": "nightly", "state": "completed", "rows": {"in": 10}, "partitions": {}, "journal": {}, "usage": {}},
)  # fmt: skip


def sent(state: State = "COMPLETE", parent: RunParent = RunParent(), ended: Ended | None = ENDED) -> Any:  # noqa: B008
    return json.loads(Serde.to_json(event(state, REF, parent, DATASETS, ended)))


@pytest.mark.parametrize(
    ("path", "base", "namespace", "name"),
    [
        ("s3://lake/in/day=*/x.parquet", "/p", "s3://lake", "in"),
        ("s3://lake/in/rows.csv", "/p", "s3://lake", "in/rows.csv"),
        ("s3://lake", "/p", "s3://lake", "/"),
        ("rows.csv", "/p", "file", "/p/rows.csv"),
        ("/in/2026-*/*.csv", "/p", "file", "/in"),
        ("../in", "/p/q", "file", "/p/in"),
        ("file:///in/rows.csv", "/p", "file", "/in/rows.csv"),
    ],
)
def test_datasets_have_openlineages_names(path: str, base: str, namespace: str, name: str) -> None:
    found = named_dataset(path, Path(base))
    assert (found.namespace, found.name) == (namespace, name)


def test_an_event_names_what_was_read_and_published_and_how_much_of_it() -> None:
    found = sent()
    assert (found["eventType"], found["job"]["namespace"], found["job"]["name"]) == ("COMPLETE", "default", "tickets")
    (read,), (wrote,) = found["inputs"], found["outputs"]
    assert (read["namespace"], read["name"]) == ("file", "/in/rows.csv")
    statistics = read["inputFacets"]["inputStatistics"]
    assert (statistics["rowCount"], statistics["size"], statistics["fileCount"]) == (10, 700, 1)
    assert [one["name"] for one in read["facets"]["schema"]["fields"]] == ["body"]
    statistics = wrote["outputFacets"]["outputStatistics"]
    assert (statistics["rowCount"], statistics["size"], statistics["fileCount"]) == (8, 500, 3)
    fields = wrote["facets"]["columnLineage"]["fields"]
    (body,), (mood,) = fields["body"]["inputFields"], fields["mood"]["inputFields"]
    assert (body["field"], body["transformations"][0]["subtype"]) == ("body", "IDENTITY")
    assert (mood["field"], mood["transformations"][0]["description"]) == ("body", "triage (extract)")
    asserted = [(one["name"], one["success"], one["severity"]) for one in
                wrote["facets"]["dataQualityAssertions"]["assertions"]]  # fmt: skip
    assert asserted == [("short", False, "warn"), ("keys", True, "error")]
    assert found["run"]["facets"]["tandem_report"]["rows"] == {"in": 10}
    facets = [*found["run"]["facets"].values(), *wrote["facets"].values(), *wrote["outputFacets"].values()]
    assert {facet["_producer"] for facet in facets} == {found["producer"]}
    assert found["producer"].startswith("urn:tandem-pipeline:")


def test_of_a_part_of_the_source_no_bytes_are_known() -> None:
    part = Ended(4, 4, 1, 1, [], ENDED.report)
    assert "size" not in sent(ended=part)["inputs"][0]["inputFacets"]["inputStatistics"]


def test_a_run_has_one_uuid_and_hangs_below_the_task_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "prod")
    found = sent("START", RunParent(TASK, "airflow/dag/01890a5d-ac96-774b-bcce-b302099a8058"), None)
    assert found["run"]["runId"] == run_id(REF) == str(uuid.UUID(run_id(REF)))
    assert found["job"]["namespace"] == "prod"
    parent = found["run"]["facets"]["parent"]
    assert (parent["job"]["namespace"], parent["job"]["name"]) == ("airflow", "dag.task")
    assert parent["run"]["runId"] == TASK.rpartition("/")[2]
    assert (parent["root"]["job"]["namespace"], parent["root"]["job"]["name"]) == ("airflow", "dag")
    for wrong in ("airflow", "a/b", "a/b/not-a-uuid", "/b/01890a5d-ac96-774b-bcce-b302099a8057"):
        assert "parent" not in sent("START", RunParent(wrong), None)["run"]["facets"]


def test_a_run_that_failed_says_why() -> None:
    failed = Ended(1, 0, 0, 0, [], ENDED.report, "RejectRateExceeded: 1 of 1 rows were rejected")
    assert "1 of 1" in sent("FAIL", ended=failed)["run"]["facets"]["errorMessage"]["message"]


def test_it_is_on_where_openlineages_client_finds_a_configuration(tmp_path: Path) -> None:
    nowhere = (tmp_path,)
    assert not switch.requested({}, nowhere)
    assert switch.requested({"OPENLINEAGE_URL": "http://host"}, nowhere)
    assert switch.requested({"OPENLINEAGE__TRANSPORT__TYPE": "kafka"}, nowhere)
    assert not switch.requested({"OPENLINEAGE_URL": "http://host", "OPENLINEAGE_DISABLED": "True"}, nowhere)
    assert not switch.requested({"OPENLINEAGE_NAMESPACE": "prod"}, nowhere)
    (tmp_path / "openlineage.yml").write_text("transport: {type: noop}\n")
    assert switch.requested({}, nowhere)


def test_a_backend_that_fails_or_hangs_is_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "http")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__URL", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__RETRY__TOTAL", "0")
    switch.send(lambda: event("START", REF, RunParent()))
    switch.send(lambda: 1 / 0)
    lines = [record.getMessage() for record in caplog.records if record.name == "tandem.lineage"]
    assert len(lines) == 2
    assert lines[1] == "an event of lineage was not sent: ZeroDivisionError"
