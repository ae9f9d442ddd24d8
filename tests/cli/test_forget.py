"""`tandem forget` as a command: exit codes, one document, what is told, and what the next run does."""

from __future__ import annotations

from pathlib import Path

from tests.cli.support import Project, rows, write_csv
from tests.harness.model_server import ModelServer


def planted(count: int) -> list[dict[str, object]]:
    table = rows(count)
    for row in table[:4]:
        row["body"] = f"{row['body']} zq7vx{row['id']}"
    return table


def in_sink(project: Project, text: str) -> list[str]:
    files = [path for path in (project.folder / "out").rglob("*") if path.is_file()]
    return [str(path) for path in files if text.encode() in path.read_bytes()]


def test_rows_are_forgotten_and_the_next_run_costs_nothing(tmp_path: Path, model_server: ModelServer) -> None:
    project = Project.make(tmp_path, model_server.env(), count=12, model="openai:test-model")
    write_csv(tmp_path / "rows.csv", planted(12))
    project.tandem("run").ok()
    assert in_sink(project, "zq7vx")
    asked = project.tandem("forget", "0")
    assert (asked.code, "--yes" in asked.err) == (2, True)
    (tmp_path / "ids.txt").write_text("id\n1\n2\n\n3\n")
    done = project.tandem("forget", "0", "99", "--from", "ids.txt", "--yes", "--json").ok().json
    assert (done["rows"], done["unknown"], done["removed"]["data"]) == (4, ["99"], 4)
    assert any(place.startswith("the source, rows.csv") for place in done["not_reached"])
    assert not in_sink(project, "zq7vx")
    receipt = (tmp_path / "out" / done["receipt"]).read_text()
    assert done["salt"] not in receipt
    write_csv(tmp_path / "rows.csv", planted(12)[4:])
    after = project.tandem("run", "--json").ok().json
    assert (after["usage"]["calls"], after["rows"]["out"], after["rows"]["removed"]) == (0, 8, 0)
    again = project.tandem("forget", "0", "1", "--yes", "--json").ok().json
    assert (again["rows"], again["unknown"], again["receipt"]) == (0, ["0", "1"], None)


def test_what_is_refused(tmp_path: Path) -> None:
    project = Project.make(tmp_path, count=3)
    assert project.tandem("forget", "--yes").code == 2
    assert "--from no.txt" in project.tandem("forget", "--from", "no.txt", "--yes").err
    del project.spec["source"]["key"]
    project.write()
    refused = project.tandem("forget", "7", "--yes", "--json")
    assert (refused.code, refused.json["error"]["code"]) == (2, "UsageError")
    assert refused.json["error"]["message"].startswith("source.key is absent")
    project.spec["source"]["key"] = ["id"]
    project.write()
    (tmp_path / "out" / "_tandem").mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / "_tandem" / "forgetting.json").write_text("{}")
    for command in (("run",), ("plan",), ("check",)):
        held = project.tandem(*command)
        assert (held.code, "tandem forget --yes" in held.err) == (2, True), held
