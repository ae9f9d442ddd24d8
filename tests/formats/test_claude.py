"""Sinks that 6e8043d wrote through LangChain's class for Anthropic, with a forced tool: their answers count for ever.

`claude.tar.xz` has one of 12 rows that is whole, and one whose command was killed after six answers had been stored. A
server answered that speaks the Messages API as far as a forced tool needs it. Nobody listens there now.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.cli.support import Project
from tests.formats.kept import HERE
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    with tarfile.open(HERE / "claude.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    return Project(tmp_path, {"ANTHROPIC_API_KEY": "sk-ant-test", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"})


def edit(project: Project, old: str, new: str) -> None:
    spec = project.folder / "tandem.yaml"
    assert old in spec.read_text()
    spec.write_text(spec.read_text().replace(old, new))


def test_its_rows_and_its_single_calls_are_found(project: Project) -> None:
    edit(project, "path: half", "path: whole")
    assert project.tandem("plan", "--json").ok().json["partitions"][0]["decision"] == "skip"
    edit(project, "uses: extract", "uses: extract\n    version: 2")
    assert project.tandem("plan", "--json").ok().json["estimate"]["calls"] == [0, 0]
    report = project.tandem("run", "--no-calls", "--json").ok().json
    assert report["rows"]["ok"] == 12
    assert report["usage"]["calls"] == 0


def test_what_was_killed_half_way_asks_for_the_rest_alone(project: Project) -> None:
    assert project.tandem("plan", "--json").ok().json["estimate"]["calls"] == [6, 6]
    refused = project.tandem("run", "--name", "other", "--no-calls")
    assert refused.code == 3
    assert "6" in refused.err + refused.out


def test_the_rest_is_asked_for_by_our_own_wire(project: Project, model_server: ModelServer) -> None:
    model_server.reset()
    project.env |= model_server.other_providers()
    report = project.tandem("run", "--name", "other", "--json").ok().json
    assert report["rows"]["ok"] == 12
    assert report["usage"]["calls"] == len(model_server.calls()) == 6
    edit(project, "uses: extract", "uses: extract\n    version: 2")
    assert project.tandem("plan", "--json").ok().json["estimate"]["calls"] == [0, 0]
