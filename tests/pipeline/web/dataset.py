"""A dataset to look at, made by real runs against the model server: two generations, rejects, questions to a person,
and texts in every place that would run if any page took them for markup."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from tests.cli.support import Project
from tests.harness.model_server import ModelServer

XSS = '<img src=x onerror="window.hacked=1">'
CORPUS = (
    XSS,
    "<script>window.hacked=1</script>",
    '"><svg onload=window.hacked=1>',
    "javascript:window.hacked=1",
    "{{ 7*7 }}${window.hacked=1}",
    "</textarea></script><script>window.hacked=1</script>",
    "' onmouseover='window.hacked=1",
)
COLUMN = "<script>window.hacked=1</script>"
DAYS = ("day=2026-11-01", "day=2026-11-02", "day=2026-11-03")
SUBJECTS = ("Invoice charged twice", "Sensor offline since Monday", "Parcel not delivered", "Change of address")


def row(number: int) -> dict[str, Any]:
    """Row 5 is refused by the model's server, 7 and 10 are uncertain, those after 20 carry the corpus."""
    body = f"ticket {number}: {SUBJECTS[number % 4].lower()}, please look at it"
    if number >= 20:
        body = f"ticket {number}: {CORPUS[number % len(CORPUS)]}"
    return {
        "ticket_id": f"T{number:03d}",
        "created_at": dt.datetime(2026, 11, 1 + number % 3, 9, number, tzinfo=dt.UTC),
        "subject": SUBJECTS[number % 4],
        "body": body,
        "amount": None if number % 5 == 0 else round(number * 3.7, 2),
        COLUMN: CORPUS[number % len(CORPUS)],
    }


def spec(system: str) -> dict[str, Any]:
    return {
        "name": "tickets",
        "source": {"path": "tickets.parquet", "key": ["ticket_id"]},
        "partition": {"by": "time", "column": "created_at", "every": "day"},
        "stages": [
            {
                "name": "triage",
                "uses": "extract",
                "model": "openai:test-model",
                "system": system,
                "prompt": "{{ subject }}\n\n{{ body }}",
                "output": {
                    "category": {"type": "enum", "values": ["billing", "bug", "other"]},
                    "summary": "str",
                    "sure": "float",
                },
                "with": {"confidence": "sure", "ask_below": 0.6},
            },
            {"name": "long", "uses": "sql", "query": "SELECT *, length(summary) AS letters FROM rows"},
        ],
        "sink": {"path": "out"},
        "limits": {"max_reject_rate": 0.5},
        "prices": {"openai:test-model": {"input": 1.0, "output": 4.0}},
    }  # fmt: skip


def _answer(number: int, generation: int) -> str:
    values = ("billing", "bug", "other")
    text = CORPUS[number % len(CORPUS)] if number >= 20 else f"{SUBJECTS[number % 4]}, reported by a customer"
    moved = generation > 1 and number % 4 == 0
    return json.dumps(
        {
            "category": values[(number + moved) % 3],
            "summary": f"{text} (again)" if moved else text,
            "sure": 0.41 if number in (7, 10) else 0.93,
        }
    )


def script(generation: int, count: int) -> dict[str, Any]:
    message = f"content filter: {XSS}"
    refused = {"match": "ticket 5:", "action": "error", "status": 400, "body": {"error": {"message": message}}}
    answers = [{"match": f"ticket {n}:", "action": "text", "text": _answer(n, generation)} for n in range(count)]
    return {"rules": [refused, *answers]}


def make(
    folder: Path, server: ModelServer, *, count: int = 27, sink: str = "out", env: dict[str, str] | None = None
) -> Project:
    """Two generations of three days: the second asks by another system text."""
    pl.DataFrame([row(number) for number in range(count)]).write_parquet(folder / "tickets.parquet")
    project = Project(folder, {**server.env(), **(env or {})})
    for generation, name in ((1, "first"), (2, "second")):
        server.script(script(generation, count))
        system = "You triage support tickets." if generation == 1 else "You triage support tickets. Be brief."
        project.spec = {**spec(system), "sink": {"path": sink}}
        (folder / "tandem.yaml").write_text(yaml.safe_dump(project.spec, sort_keys=False))
        done = project.tandem("run", "--name", name, "--yes", "--max-cost", "5", "--json")
        assert done.code == 0, done
    return project
