"""`tandem forget`: remove rows everywhere, by their key."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from pipeline.cli.screen.console import Screen, counted
from pipeline.client.spec_file import read_spec, sink_of
from pipeline.operations.forget import Forgetting, Forgotten, forget, look_for
from schemas.errors import UsageError

_NAMED = 10


@dataclass(frozen=True)
class ForgetOptions:
    spec: Path
    rows: tuple[str, ...]
    from_file: Path | None
    yes: bool


async def forget_command(options: ForgetOptions, screen: Screen) -> int:
    """Look for the rows, ask, remove them, and tell what was done. Rows that are not there are no error."""
    spec, base = await asyncio.to_thread(read_spec, options.spec)
    texts = [*options.rows, *(_lines(options.from_file, spec.source.key) if options.from_file is not None else ())]
    if options.from_file is not None and not texts:
        raise UsageError(f"{options.from_file} has no ROW.", hint="Write a value of the key on each line.")
    if not (options.yes or (sys.stdin.isatty() and not screen.json)):
        raise UsageError("tandem forget asks before it removes rows, and this is no terminal.", hint="Add --yes.")
    found = await asyncio.to_thread(look_for, spec, base, sink_of(spec, base), texts)
    for line in _unknown(found):
        screen.note(line)
    if found.is_empty:
        if screen.json:
            screen.document(_document(found, None))
        screen.result("Nothing of these rows is in the sink.")
        return 0
    if not options.yes:
        for line in _about_to(found):
            screen.note(line)
        if not typer.confirm("Remove them? This cannot be undone", err=True):
            raise typer.Abort
    done = await asyncio.to_thread(forget, found)
    if screen.json:
        screen.document(_document(found, done))
    else:
        _show(done, screen)
    return 0


def _lines(path: Path, key: list[str]) -> list[str]:
    """Read a ROW from each line; a first line that names the key's column is a header."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as exc:
        raise UsageError(f"--from {path} cannot be read: {exc.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"--from {path} is not UTF-8.", hint="Save it as UTF-8, a ROW on each line.") from None
    rows = [line.strip() for line in lines if line.strip()]
    return rows[1:] if rows[:1] == key else rows


def _unknown(found: Forgetting) -> list[str]:
    texts = found.unknown
    lines = [f"Nothing in the sink: {text}" for text in texts[:_NAMED]]
    return [*lines, f"… and {len(texts) - _NAMED:,} more"] if len(texts) > _NAMED else lines


def _about_to(found: Forgetting) -> list[str]:
    lines = [
        f"{counted(len(found.rows), 'row')} of {found.store.uri}, in {counted(len(found.partitions), 'partition')}:"
    ]
    if found.earlier is not None:
        lines.append("  and the rows of a command that did not finish")
    return [*lines, *(f"  {count:,} in {kind}" for kind, count in found.counts.items())]


def _show(done: Forgotten, screen: Screen) -> None:
    receipt = done.receipt
    counts = ", ".join(f"{count:,} in {kind}" for kind, count in receipt.removed.items())
    rows, partitions = counted(len(receipt.rows), "row"), counted(len(receipt.partitions), "partition")
    screen.result(f"Forgotten: {rows} of {partitions}, 0 calls. Removed: {counts}.")
    if receipt.kept_answers:
        screen.result(f"Kept, as rows that stay need them, too: {counted(receipt.kept_answers, 'answer')}.")
    screen.result("Not reached:")
    for place in receipt.not_reached:
        screen.result(f"  {place}")
    screen.result(f"Receipt: {done.key}")
    screen.note(f"Its salt, which is stored nowhere: {done.salt}")


def _document(found: Forgetting, done: Forgotten | None) -> dict[str, Any]:
    receipt = done.receipt if done is not None else None
    return {
        "rows": len(receipt.rows) if receipt is not None else 0,
        "unknown": list(found.unknown),
        "removed": receipt.removed if receipt is not None else {},
        "partitions": list(receipt.partitions) if receipt is not None else [],
        "kept_answers": receipt.kept_answers if receipt is not None else 0,
        "not_reached": list(receipt.not_reached) if receipt is not None else [],
        "receipt": done.key if done is not None else None,
        "salt": done.salt if done is not None else None,
    }
