"""`init`, `check` and `try`: the first minutes with a table of one's own."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest
import yaml

from pipeline.runs.report import Report, exit_code
from pipeline.sources.profile import propose
from schemas.messages.base import RunState
from schemas.messages.run import Failure, Totals
from schemas.spec.loading import load_spec
from tests.cli.support import Project, tandem
from tests.harness.model_server import ModelServer

_QUOTED = b'Ticket ID,Created At,"Free text, long"\n1,2026-11-01 10:00,"one\ntwo"\n2,2026-11-02 11:00,"a"\n'
# Content and rows: delimiters, encodings, quoted lines, names that YAML or an output could trip over, dates by hand.
ODD: dict[str, tuple[bytes, int]] = {
    "semicolons.csv": (b"id;when;text\n1;2026-11-01;hello to everyone\n2;2026-11-02;a text, with a comma\n", 2),
    "latin.csv": ("id,when,comment\n1,2026-11-01,café crème brûlée\n2,2026-11-02,naïve\n".encode("latin-1"), 2),
    "Names (old).csv": (_QUOTED, 2),
    "clash.csv": (b"id,summary,topic\n1,some long summary text,x\n2,other long summary text,y\n", 2),
    "dates.csv": (b"id,opened,body\n1,01/11/2026,a long text\n2,,another text\n3,13/11/2026,a third text\n", 3),
}


@pytest.mark.parametrize("name", ODD)
def test_what_init_writes_runs_as_it_is(tmp_path: Path, name: str) -> None:
    content, rows = ODD[name]
    (tmp_path / name).write_bytes(content)
    told = tandem("init", "mine", "--from", name, cwd=tmp_path).ok()
    assert [line.split()[1] for line in told.out.splitlines()] == ["check", "try", "run"]
    report = tandem("run", "mine/tandem.yaml", "--json", cwd=tmp_path).ok().json
    assert report["rows"]["ok"] == report["rows"]["in"] == rows


def test_check_tells_what_it_looked_at(tmp_path: Path) -> None:
    project = Project.make(tmp_path)
    plain = project.tandem("check").ok()
    assert [line[0] for line in plain.err.splitlines()] == ["✓"] * 5
    assert plain.out.startswith(f"tickets is fine: 30 rows in 3 partitions → {tmp_path}/out\n")
    assert "triage (extract: offline:lexical): body → mood, summary" in plain.out
    told = project.tandem("check", "--json").ok().json
    assert (told["ok"], told["rows"], told["partitions"]) == (True, 30, 3)
    assert project.published() == []
    again = project.tandem("init", ".")
    assert again.code == 2
    assert "exists already" in again.err


def test_the_graph_that_init_writes_runs_once_its_stage_is_uncommented(tmp_path: Path) -> None:
    tandem("init", "mine", "-q", cwd=tmp_path).ok()
    spec = tmp_path / "mine/tandem.yaml"
    spec.write_text(re.sub(r"^  # ( *(?:- name: reply|uses: my_graph|model|inputs|outputs?):? ?.*)$", r"  \1",
                           spec.read_text(), flags=re.M))  # fmt: skip
    tried = tandem("try", "mine/tandem.yaml", "--rows", "2", "--json", cwd=tmp_path).ok().json
    replies = [row["stages"]["reply"] for row in tried["rows"]]
    assert all(made["status"] == "ok" and made["output"]["reply"] for made in replies)
    assert replies[0]["steps"][0]["node"] == "answer"


def test_what_init_proposes(tmp_path: Path) -> None:
    for name, (content, _) in ODD.items():
        (tmp_path / name).write_bytes(content)
    dates = propose(tmp_path / "dates.csv")
    assert (dates.key, dates.time, dates.nulls, dates.text) == ("id", "opened", True, ["body"])
    assert dates.formats == {"opened": ["%d/%m/%Y"]}
    (tmp_path / "either.csv").write_text("id,opened,body\n1,01/11/2026,long text is here\n2,02/11/2026,and here\n")
    either = propose(tmp_path / "either.csv")
    assert either.time is None, "nobody can tell the day from the month"
    assert either.formats == {"opened": ["%d/%m/%Y", "%m/%d/%Y"]}
    told = tandem("init", "here", "--from", "either.csv", "--model", "openai:gpt-5-mini", cwd=tmp_path).ok()
    assert "openai:gpt-5-mini" in told.err
    written = (tmp_path / "here" / "tandem.yaml").read_text()
    assert "# opened: {type: date, format: '%d/%m/%Y'}   # or %m/%d/%Y?" in written
    assert load_spec(tmp_path / "here" / "tandem.yaml").source.columns == {}
    clash = tandem("init", "clash", "--from", "clash.csv", "-q", cwd=tmp_path).ok()
    assert (clash.out, clash.err) == ("", "")
    spec = yaml.safe_load((tmp_path / "clash" / "tandem.yaml").read_text())
    assert list(spec["stages"][0]["output"]) == ["llm_topic"]


def test_init_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for args, text in (
        (("x", "--from", "no.csv"), "no.csv: no such file"),
        (("x", "--model", "gpt"), "--model gpt"),
        (("file/x",), "cannot be written"),
    ):
        told = tandem("init", *args, cwd=tmp_path)
        assert (told.code, told.out) == (2, ""), told
        assert text in told.err
        assert "Traceback" not in told.err
    told = tandem("demo", "--dir", "file/x", cwd=tmp_path)
    assert told.code == 2
    assert "cannot be written" in told.err


def test_try_shows_each_step_and_pays_once(tmp_path: Path, model_server: ModelServer) -> None:
    project = Project.make(tmp_path, model_server.env(), count=9, model="openai:test-model")
    project.spec["stages"].append({"name": "few", "uses": "sql", "query": "SELECT * FROM rows WHERE id <> 3"})
    project.write()
    tried = project.tandem("try", "--rows", "5", "--json").ok().json
    assert [(row["partition"], row["input"]["id"]) for row in tried["rows"]] == [
        ("day=2026-11-01", 0), ("day=2026-11-01", 3), ("day=2026-11-01", 6), ("day=2026-11-02", 1),
        ("day=2026-11-02", 4),
    ]  # fmt: skip
    assert tried["rows"][1]["stages"]["few"] == {"status": "filtered"}
    stage = tried["rows"][0]["stages"]["triage"]
    assert stage["status"] == "ok"
    assert set(stage["output"]) == {"mood", "summary"}
    assert stage["steps"]
    assert stage["usage"]["calls"] == 1
    assert stage["usage"]["models"] == ["openai:test-model"]
    assert min(stage["usage"]["input_tokens"], stage["usage"]["output_tokens"]) > 0
    assert tried["usage"]["input_tokens"] >= 5
    assert tried["usage"]["calls"] == model_server.stats().answered_ok == 5
    assert project.published() == []

    plain = project.tandem("try", "--rows", "2", "--stage", "triage", "--partition", "day=2026-11-02").ok()
    assert "row 1, day=2026-11-02" in plain.out
    assert "mood = " in plain.out
    assert "few" not in plain.out
    assert "0 calls" in plain.out

    report = project.tandem("run", "--json").ok().json
    assert (report["usage"]["calls"], report["rows"]["filtered"]) == (4, 1), "what was tried is not paid again"
    assert project.tandem("try", "--rows", "9", "--json").ok().json["usage"]["calls"] == 0
    assert model_server.stats().max_ok_per_content == 1

    drawn = project.tandem("try", "--graph").ok().out
    assert drawn.startswith("%% triage\n")
    assert "graph TD" in drawn
    assert list(project.tandem("try", "--graph", "--json").ok().json) == ["triage"]
    for args, text in ((("--stage", "x"), "--stage x"), (("--partition", "x"), "--partition x")):
        told = project.tandem("try", *args, "--json")
        assert (told.code, told.json["error"]["code"]) == (2, "UsageError")
        assert text in told.json["error"]["message"]

    model_server.script({"rules": [{"action": "error", "code": "invalid_api_key"}]})
    project.stage["prompt"] = "Anew: {{ body }}"
    project.write()
    told = project.tandem("try", "--json")
    assert (told.code, told.json["error"]["code"]) == (3, "FatalModelError")
    assert "OPENAI_API_KEY" in told.json["error"]["message"] + told.json["error"]["hint"]
    stopped = project.tandem("run", "--json")
    assert stopped.code == 3
    assert stopped.json["state"] == "failed"
    assert "FatalModelError" in {failure["error"] for failure in stopped.json["failures"]}


@pytest.mark.parametrize(
    ("state", "failures", "stop", "code"),
    [
        ("completed", [], None, 0),
        ("failed", ["DuplicateKeys"], None, 1),
        ("cancelled", [], None, 1),
        ("failed", ["DuplicateKeys", "RejectRateExceeded"], None, 3),
        ("failed", [], "FatalModelError", 3),
        ("failed", [], "SourceError", 2),
        ("failed", [], "SpecError", 2),
        ("failed", [], "ConnectionFailed", 4),
        ("failed", [], "StoreError", 4),
        ("failed", [], "Bug", 70),
    ],
)
def test_the_exit_code_of_a_report(state: RunState, failures: list[str], stop: str | None, code: int) -> None:
    now = dt.datetime.now(dt.UTC)
    report = Report(
        run="r", pipeline="p", state=state, sink="s", plan="", totals=Totals(),
        failures=tuple(Failure(partition="x", error=error, message="") for error in failures),
        stop=Failure(partition="", error=stop, message="") if stop else None, started_at=now, finished_at=now,
    )  # fmt: skip
    assert exit_code(report) == code
