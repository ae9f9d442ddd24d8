"""Write the kept sinks: python -m tests.formats.make_sink

To be run with the code whose sinks are to be kept for ever: before its formats move, and once for each release. It
works in `kept.MADE_IN`. The sinks of 6e8043d stay as they are; those of another version get names of their own.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl

from tests.cli.support import Project, Result, eventually
from tests.formats import kept
from tests.harness.model_server import ModelServer

DAY = "day=2026-11-0"
KEEP = "36500d"  # answers that nothing rests on are dropped after `keep`: never, here

ASKING = '''\
"""Writes a reply, and asks a person where money goes back."""

from dataclasses import dataclass
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt


class State(TypedDict, total=False):
    body: str
    draft: str
    reply: str


@dataclass
class Context:
    model: Any


async def write(state: State, runtime: Runtime[Context]) -> State:
    answer = await runtime.context.model.ainvoke(f"Reply to: {state['body']}")
    return {"draft": str(answer.content)}


def decide(state: State) -> State:
    if "refund" not in state["body"]:
        return {"reply": state["draft"]}
    return {"reply": str(interrupt({"ask": "Pay back?", "text": state["body"]}))}


graph = StateGraph(State, context_schema=Context)
graph.add_node("write", write)
graph.add_node("decide", decide)
graph.add_edge(START, "write")
graph.add_edge("write", "decide")
graph.add_edge("decide", END)
'''

TICKETS = f"""\
name: tickets
source: {{path: tickets.parquet, key: [id]}}
partition: {{by: time, column: created_at, every: day}}
stages:
  - name: triage
    uses: extract
    model: openai:test-model
    system: You sort tickets.
    prompt: "Sort this ticket: {{{{ body }}}}"
    output:
      mood: {{type: enum, values: [good, bad]}}
      urgency: {{type: int, ge: 1, le: 5}}
      tags: list[str]
      place: {{optional: true, fields: {{city: str, floor: "int?"}}}}
  - name: loud
    uses: sql
    query: SELECT *, upper(note) AS shout FROM rows WHERE length(body) > 12
  - name: label
    uses: classify
    model: offline:lexical
    prompt: "{{{{ body }}}}"
    output: {{topic: {{type: enum, values: [billing, delivery, other]}}}}
  - name: ask
    uses: asking:graph
    model: openai:test-model
    output: {{reply: str}}
sink: {{path: out}}
limits: {{rows_in_flight: 4, batch_rows: 6, max_reject_rate: 0.5}}
prices: {{"openai:test-model": {{input: 1.0, output: 2.0}}}}
journal: {{keep: {KEEP}}}
"""

REVIEWS = f"""\
name: reviews
source:
  path: reviews.csv
  delimiter: ";"
  encoding: cp1252
  key: [review]
  columns:
    visited: {{type: date, format: "%d/%m/%Y"}}
partition: {{by: time, column: visited, every: month}}
stages:
  - name: enrich
    uses: extract
    model: offline:lexical
    prompt: "{{{{ text }}}}"
    when_empty: reject
    output:
      sentiment: {{type: enum, values: [positive, neutral, negative]}}
      summary: {{type: str, description: one sentence}}
  - name: count
    uses: counting:graph
    placement: node
    output: {{words: int}}
  - name: sane
    uses: checks
    with: {{rules: [{{name: not_too_short, sql: "words > 1"}}]}}
sink: {{path: out, provenance: columns, keep_superseded: 0s}}
checks:
  - {{name: has_summary, sql: "summary is not null", severity: warn}}
journal: {{keep: {KEEP}}}
"""

COUNTING = '''\
"""Counts words, in two steps."""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    text: str
    parts: list[str]
    words: int


def split(state: State) -> State:
    return {"parts": state["text"].split()}


def count(state: State) -> State:
    return {"words": len(state["parts"])}


graph = StateGraph(State)
graph.add_node("split", split)
graph.add_node("count", count)
graph.add_edge(START, "split")
graph.add_edge("split", "count")
graph.add_edge("count", END)
'''

LAKE = f"""\
name: lake
source: {{path: "lake/*.ndjson", key: [id]}}
partition: {{by: column, column: place}}
stages:
  - name: pieces
    uses: explode
    with: {{column: text, chunk_tokens: 10, into: piece, position: at}}
  - name: short
    uses: extract
    model: offline:lexical
    prompt: "{{{{ piece }}}}"
    output: {{summary: str}}
sink: {{path: out, format: delta}}
journal: {{keep: {KEEP}}}
"""


def tickets(project: Project, server: ModelServer) -> list[str]:
    """Four days of ten rows, then what happens to them."""
    rows = [ticket(number) for number in range(40)]
    write_tickets(project, rows)
    (project.folder / "asking.py").write_text(ASKING)
    (project.folder / "tandem.yaml").write_text(TICKETS)
    server.script({"rules": [{"match": "poison", "action": "error", "status": 400}]})
    ran = run(project, "first", "--max-cost", "5")
    assert (ran["rows"]["rejected"], ran["rows"]["pending"]) == (2, 5), ran

    again = project.tandem("rejects", "retry", "tandem.yaml", f"{DAY}3", "--yes", "--json").ok().json
    assert (again["rows"]["rejected"], again["usage"]["calls"]) == (1, 0), "refused again, and what refused it is void"

    for row, said in (("1", "yes"), ("3", "only half")):  # a day with questions left, and one with none
        project.tandem("review", "answer", "--row", row, "--answer", said).ok()
    assert run(project, "answered")["usage"]["calls"] == 0

    rows = [row for row in rows if row["id"] != 8]
    rows[4] = {**rows[4], "body": "a longer message, number 4 as it was mended"}
    rows[11] = {**rows[11], "note": "passed through"}
    write_tickets(project, rows)
    assert run(project, "edited")["usage"]["calls"] == 3

    text = (project.folder / "tandem.yaml").read_text()
    (project.folder / "tandem.yaml").write_text(text.replace("Sort this ticket:", "Sort this one:"))
    assert run(project, "reworded", "--partition", f"{DAY}1")["usage"]["calls"] == 9
    (project.folder / "tandem.yaml").write_text(text)
    assert run(project, "restored", "--partition", f"{DAY}1")["usage"]["calls"] == 0

    rows += [ticket(number, day=5, word="poison" if number else "thing") for number in range(4)]
    rows += [ticket(number, day=4) for number in range(40, 43)]
    write_tickets(project, rows)
    failed = run(project, "failing", "--partition", f"{DAY}5", code=3)
    assert failed["partitions"]["failed"] == 1

    cancelled(project, server)
    return ["first", "failing", "stopped"]


def ticket(number: int, *, day: int | None = None, word: str = "") -> dict[str, Any]:
    words = {5: "poison", 10: "poison", **dict.fromkeys((0, 1, 2, 3, 9), "refund")}
    start = dt.datetime.fromisoformat("2026-11-01T10:00")
    days = number % 4 if day is None else day - 1
    return {
        "id": number if day != 5 else 500 + number,
        "created_at": start + dt.timedelta(days=days, minutes=number),
        "body": f"message number {number} of {days} about a {word or words.get(number, 'thing')}",
        "note": f"note {number}" if number % 5 else None,
        "price": number / 8,
    }


def write_tickets(project: Project, rows: list[dict[str, Any]]) -> None:
    pl.DataFrame(rows).sort("created_at", "id").write_parquet(project.folder / "tickets.parquet")


def cancelled(project: Project, server: ModelServer) -> None:
    """Two of three new rows are answered, and kept in segments; then the run is cancelled: a tombstone."""
    server.script({"rules": [{"match": "number 42 ", "action": "hang"}]})
    before = server.stats().answered_ok
    with project.start("run", "--name", "stopped", "--partition", f"{DAY}4", "--json") as stopped:
        eventually(lambda: server.stats().answered_ok == before + 4, "two rows answered")
        time.sleep(2.5)  # until they are flushed
        project.tandem("runs", "cancel", "stopped").ok()
        assert stopped.wait().code == 1
    server.script({})


def reviews(project: Project, server: ModelServer) -> list[str]:
    """Three months; one published in part, one whole, one with a stage less; then its rows leave the source."""
    (project.folder / "counting.py").write_text(COUNTING)
    (project.folder / "tandem.yaml").write_text(REVIEWS)
    lines = [review(number) for number in range(24)]
    write_reviews(project, lines)
    dates = ("--from-date", "2026-08-01", "--to-date", "2026-08-31")
    assert run(project, "canary", *dates, "--canary", "2", command="backfill")["partitions"]["published"] == 1
    part = run(project, "part", "--partition", "month=2026-09", "--limit-rows", "3")
    assert part["rows"]["in"] == 3, part
    run(project, "rest", "--partition", "month=2026-10")
    text = (project.folder / "tandem.yaml").read_text()
    grown = text.replace("      sentiment:", "      stars: {type: int, ge: 1, le: 5}\n      sentiment:")
    (project.folder / "tandem.yaml").write_text(grown)
    run(project, "grown", "--partition", "month=2026-08")
    write_reviews(project, [line for line in lines if "/10/2026" not in line])
    return ["canary", "part", "grown"]


def review(number: int) -> str:
    texts = ("Très bon café, merci", "Broken on arrival; a refund please", "It is what it is, 5 €", "", "fine")
    text = texts[number % 5]
    return f"R{number:03};{number % 28 + 1:02}/{8 + number % 3:02}/2026;{chr(34)}{text}{chr(34)};{number:04}"


def write_reviews(project: Project, lines: list[str]) -> None:
    text = "\n".join(("review;visited;text;code", *lines)) + "\n"
    (project.folder / "reviews.csv").write_bytes(text.encode("cp1252"))


def lake(project: Project, server: ModelServer) -> list[str]:
    """A Delta table of two partitions, one of them in its second generation."""
    (project.folder / "tandem.yaml").write_text(LAKE)
    (project.folder / "lake").mkdir()
    places = ("Besançon, west", "north")
    for number, place in enumerate(places):
        write_place(project, number, place, "a thing")
    run(project, "first")
    write_place(project, 1, places[1], "another thing")
    project.tandem("plan", "--out", "plan.json").ok()
    run(project, "second", "--plan", "plan.json")
    (project.folder / "plan.json").unlink()  # names its sink, and so this folder
    return ["first", "second"]


def write_place(project: Project, number: int, place: str, thing: str) -> None:
    rows = [
        {
            "id": f"{number}-{row}",
            "place": place,
            "text": f"Message {row} on {thing}. It has a second sentence, and a third part.",
        }
        for row in range(6)
    ]
    (project.folder / "lake" / f"{number}.ndjson").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def run(project: Project, name: str, *options: str, code: int = 0, command: str = "run") -> dict[str, Any]:
    done: Result = project.tandem(command, "--name", name, *options, "--yes", "--json")
    assert done.code == code, done
    report: dict[str, Any] = done.json
    return report


def make(name: str, target: Path) -> None:
    shutil.rmtree(kept.MADE_IN, ignore_errors=True)
    project = Project(kept.MADE_IN / name, {**kept.ENV, "TANDEM_HOME": str(kept.MADE_IN / "home")})
    project.folder.mkdir(parents=True)
    with kept.model_at_its_port() as server:
        runs = MAKERS[name](project, server)
    told = kept.told(project, runs)
    shutil.rmtree(project.folder / "__pycache__", ignore_errors=True)
    for left in (*project.folder.glob("*.out"), *project.folder.glob("*.err")):
        left.unlink()  # streams of commands
    kept.pack(project.folder, target / f"{name}.tar.xz")
    found = {"written_by": version(), "runs_shown": runs, **told}
    (target / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


MAKERS = {"tickets": tickets, "reviews": reviews, "lake": lake}


def version() -> dict[str, str]:
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD:pipeline"], capture_output=True, text=True, check=True)
    return {
        "pipeline_tree": head.stdout.strip(),
        **{name: importlib.metadata.version(name) for name in ("tandem-pipeline", "pyarrow", "polars")},
    }


if __name__ == "__main__":
    for wanted in sys.argv[1:] or MAKERS:
        make(wanted, kept.HERE)
