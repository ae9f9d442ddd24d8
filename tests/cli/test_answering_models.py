"""Who answered: a provider that moves a model under its name is told of, with the rows before and after."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.journal import compacted
from pipeline.journal.segments import Reading
from pipeline.stores import LocalStore
from stages.journal.records import CallRecord, record_of
from tests.cli.support import Project, write_csv
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.slow


def test_a_model_that_moved_under_its_name_is_named_with_its_rows(tmp_path: Path, model_server: ModelServer) -> None:
    model_server.script({"rules": [{"action": "answers_as", "text": "test-model-2025-08"}]})
    project = Project.make(tmp_path, model_server.env(), model="openai:test-model")
    project.spec.update({"source": {"path": "in/*.csv", "key": ["id"]}, "partition": {"by": "files"}})
    project.write()
    (tmp_path / "in").mkdir()
    write_csv(tmp_path / "in" / "a.csv", [{"id": at, "body": f"text {at}"} for at in range(5)])
    first = project.tandem("run", "--json").ok().json
    (stage,) = first["answered_by"]
    assert first["answered_by"] == {stage: {"openai:test-model": {"test-model-2025-08": 5}}}

    model_server.script({"rules": [{"action": "answers_as", "text": "test-model-2026-02"}]})
    write_csv(tmp_path / "in" / "b.csv", [{"id": at, "body": f"text {at}"} for at in range(5, 8)])
    second = project.tandem("run").ok()
    says = f"{stage}: the provider has moved openai:test-model: 5 rows by test-model-2025-08, 3 rows by"
    assert says in second.out + second.err
    plan = project.tandem("plan").ok()
    assert says in plan.out
    assert project.tandem("plan", "--json").ok().json["answered_by"][stage] == {
        "openai:test-model": {"test-model-2025-08": 5, "test-model-2026-02": 3}
    }
    # A row that is only republished keeps the name of who answered it.
    write_csv(tmp_path / "in" / "a.csv", [{"id": at, "body": f"text {at}"} for at in range(6)])
    again = project.tandem("run", "--json").ok().json
    assert again["answered_by"][stage]["openai:test-model"]["test-model-2025-08"] == 5

    store = LocalStore(tmp_path / "out")
    found = [
        record
        for chunk in compacted.everything(store, "file=b.csv", ["kind", "body"], Reading())
        for record in map(record_of, chunk["body"].to_list())
        if isinstance(record, CallRecord)
    ]
    assert found
    for call in found:
        assert call.by is not None
        assert call.by["fingerprint"] == "fp_test-model-2026-02"
        assert call.by["tier"] == "default"
        assert call.by["endpoint"].startswith("127.0.0.1:")
        assert call.request_id
