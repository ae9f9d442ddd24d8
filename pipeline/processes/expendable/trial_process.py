"""A trial in an expendable process: what a row does to a process, it does to that one, and an error says so."""

import asyncio
from pathlib import Path
from typing import Any

import orjson

from pipeline.enrichment.tried_rows import Tried
from pipeline.processes.channel import ChannelClosed, Message
from pipeline.processes.child.trials import trial_request
from pipeline.processes.children import Child, WriteLine
from pipeline.processes.deaths import Death
from pipeline.processes.fork_server import handle as fork_server
from schemas.errors import TandemError, by_code

_NAMED_ROWS = 3


class TrialEnded(TandemError):
    """A row, or the code around it, ended the process that tried it."""


async def try_apart(spec: Path, tried: Tried, write_line: WriteLine) -> dict[str, Any]:
    """Try rows of the spec in a file, as `try_rows` does. What user code prints goes to `write_line`. Raises
    TrialEnded, and the errors of `try_rows`."""
    return await _requested("try", trial_request(spec, tried), write_line)


async def draw_apart(spec: Path, stage: str | None, write_line: WriteLine) -> dict[str, Any]:
    """Draw graphs, as `diagrams` does."""
    return await _requested("draw", {"spec": str(spec), "stage": stage}, write_line)


async def _requested(name: str, data: dict[str, Any], write_line: WriteLine) -> dict[str, Any]:
    begin = {"role": "rows", "owner": "", "max_memory": 0}
    child = await Child.started(fork_server.current(), "try", write_line, {}, begin)
    try:
        return _document(await child.channel.request(name, data))
    except ChannelClosed:
        raise _ended(await asyncio.shield(child.death)) from None
    finally:
        await child.stop()  # what was answered reaches the journal, an interrupt included


def _document(answer: Message) -> dict[str, Any]:
    if answer.data is not None:
        error = answer.data["error"]
        raise by_code(error["code"])(error["message"], hint=error["hint"])
    document: dict[str, Any] = orjson.loads(answer.body)
    return document


def _ended(death: Death) -> TrialEnded:
    rows = [f"stage {row['stage']}, row {row['id']}" for row in death.rows]
    more = ", …" if len(rows) > _NAMED_ROWS else ""
    where = f" while these ran: {', '.join(rows[:_NAMED_ROWS])}{more}" if rows else ""
    return TrialEnded(
        f"The process that tried the rows {death.cause or 'ended'}{where}.",
        hint="A run rejects such a row as killed_worker and goes on; here, try fewer rows (--rows 1).",
    )
