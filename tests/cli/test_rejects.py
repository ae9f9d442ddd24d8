"""Rejects are asked for again where a model said what they are rejected for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import Project
from tests.harness.model_server import ModelServer

BAD = '{"mood": "good", "summary": "?"}'


@pytest.fixture
def project(tmp_path: Path, model_server: ModelServer) -> Project:
    return Project.make(tmp_path, model_server.env(), count=9, model="openai:test-model")


def _checks(project: Project, sql: str) -> None:
    rule = {"name": "long_enough", "sql": sql}
    project.spec["stages"] = [
        project.stage,
        {**project.stage, "name": "language", "prompt": "Language? {{ body }}", "output": {"language": "str"}},
        {"name": "sane", "uses": "checks", "with": {"rules": [rule]}},
    ]
    project.write()


def test_what_a_check_rejects_is_asked_of_the_stage_that_wrote_it(project: Project, model_server: ModelServer) -> None:
    _checks(project, "length(summary) > 3")
    model_server.script({"rules": [{"match": "number 4 ", "times": 1, "action": "text", "text": BAD}]})
    first = project.tandem("run", "--json").ok().json
    assert (first["rows"]["rejected"], first["usage"]["calls"]) == (1, 18)
    shown = project.tandem("rejects", "show", "--row", "4").ok().out
    assert "sane: long_enough after 1 call(s)" in shown
    assert f"answered: {BAD}".replace(" ", "") in shown.replace(" ", "")
    assert "call 1 asked:" in shown
    assert "user: " in shown
    assert "number 4 " in shown.partition("call 1 asked:")[2]
    (row,) = project.tandem("rejects", "show", "--row", "4", "--json").ok().json
    (request,) = row["requests"]
    assert request["model"]["name"] == "openai:test-model"
    assert "number 4 " in request["messages"][-1]["content"]
    again = project.tandem("rejects", "retry", "--json").ok().json
    assert (again["rows"]["rejected"], again["usage"]["calls"]) == (0, 1), "the language is not asked for again"


def test_a_request_that_is_not_kept_is_said_to_be_so(project: Project, model_server: ModelServer) -> None:
    project.spec["journal"] = {"requests": "digest"}
    _checks(project, "length(summary) > 3")
    model_server.script({"rules": [{"match": "number 4 ", "times": 1, "action": "text", "text": BAD}]})
    project.tandem("run").ok()
    assert "call 1 asked: not kept" in project.tandem("rejects", "show", "--row", "4").ok().out
    (row,) = project.tandem("rejects", "show", "--row", "4", "--json").ok().json
    assert row["requests"] == [None]


def test_what_the_source_says_is_not_asked_of_a_model(project: Project, model_server: ModelServer) -> None:
    _checks(project, "id <> 4")
    assert project.tandem("run", "--json").ok().json["rows"]["rejected"] == 1
    before = model_server.stats().requests
    again = project.tandem("rejects", "retry").ok()
    assert "1 row, none because of a model's answer: fix the source or the spec" in again.err
    assert model_server.stats().requests == before
