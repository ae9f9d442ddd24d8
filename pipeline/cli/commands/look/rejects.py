"""`tandem rejects ls|show`: show rows that were not enriched, and the reason."""

from pathlib import Path
from typing import Any

import orjson
import polars as pl

from pipeline.cli.environment import command
from pipeline.cli.screen.console import Screen
from pipeline.client.spec_file import read_spec, sink_of
from pipeline.journal.requests import NOT_KEPT, requests_of
from pipeline.outputs import scan
from pipeline.outputs.rejects import Rejects, all_rejects, classes
from pipeline.stores import Store
from schemas.errors import UsageError


def rejects_in(path: Path, key: str | None) -> tuple[Store, list[Rejects]]:
    """Return a spec's sink and its rejects, of one partition or all. Raises UsageError."""
    spec, base = read_spec(path)
    store = sink_of(spec, base)
    found = list(all_rejects(store, key))
    if key is not None and not found and key not in scan.partitions(store):
        raise UsageError(f"{key}: no such partition is published.", hint=f"See: {command()} rejects ls {path}")
    return store, found


def ls_command(path: Path, key: str | None, screen: Screen) -> int:
    """List rejects by error class, with an example and the next command."""
    _, found = rejects_in(path, key)
    grouped = [line for rejects in found for line in classes(rejects)]
    if screen.json:
        screen.document(grouped)
        return 0
    for line in grouped:
        screen.result(f"{line['partition']}  {line['rows']:,} × {line['stage']}: {line['error']}: {line['message']}")
        screen.result(f"    for example {line['key']}")
    if not grouped:
        screen.note("No rows are rejected.")
    else:
        screen.note(f"See one: {command()} rejects show {path} --row VALUE   Retry: {command()} rejects retry {path}")
    return 0


def show_command(path: Path, key: str | None, row: str | None, screen: Screen) -> int:
    """Show the rejected rows; `row` is a value of the key, or a row id: of that one also the requests of its calls."""
    store, found = rejects_in(path, key)
    rows: list[dict[str, Any]] = []
    for rejects in found:
        chosen = rejects.rows
        if row is not None:
            quoted = pl.col("key").str.contains(f'"{row}"', literal=True) | pl.col("key").str.contains(
                f":{row}[,}}]", literal=False
            )
            chosen = chosen.filter(quoted | (pl.col("row_id") == row))
        rows += [{"partition": rejects.partition, **line} for line in chosen.to_dicts()]
    if row is not None and not rows:
        raise UsageError(f"--row {row}: no rejected row has that key.", hint=f"See: {command()} rejects ls {path}")
    if row is not None:
        rows = [{**line, "requests": _requests(store, line)} for line in rows]
    if screen.json:
        screen.document(rows)
        return 0
    for line in rows[:100]:
        screen.result(f"{line['partition']}  {line['key']}")
        screen.result(f"    {line['stage']}: {line['error']} after {line['attempts']} call(s): {line['message']}")
        if line["raw_answer"]:
            screen.result(f"    answered: {str(line['raw_answer'])[:500]}")
        for number, asked in enumerate(line.get("requests", ()), 1):
            screen.result(f"    call {number} asked: {_text(asked)}")
    return 0


def _requests(store: Store, line: dict[str, Any]) -> list[dict[str, Any] | None]:
    """Return the requests of a reject's calls; None for one that is not kept."""
    calls = [request for request, _ in orjson.loads(line["calls"] or "[]")]
    kept = requests_of(store, line["partition"], calls) if calls else {}
    return [kept.get(request) for request in calls]


def _text(asked: dict[str, Any] | None) -> str:
    """Return the messages of a request, each with its role on a line of its own."""
    if asked is None:
        return NOT_KEPT
    texts = [f"{message['role']}: {message['content']}" for message in asked["messages"]]
    return "".join("\n      " + text.replace("\n", "\n      ") for text in texts)
