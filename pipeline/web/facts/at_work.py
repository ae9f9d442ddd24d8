"""The partitions that open runs work on, or wait for."""

from collections.abc import Iterable

from pipeline.client.connection import Connection
from pipeline.client.follow import progress_of
from pipeline.client.open_runs import open_run
from pipeline.stores import Store
from pipeline.web.facts.runs import RunLine

_MOST = 5  # open runs, of which each takes a question to Temporal


async def partitions_at_work(connection: Connection | None, store: Store, lines: Iterable[RunLine]) -> dict[str, str]:
    """Return `running` for partitions that a run works on now, `held` for those that one waits for as another run has
    them; nothing where Temporal cannot be reached."""
    if connection is None:
        return {}
    found: dict[str, str] = {}
    for line in [line for line in lines if line.state in ("open", "running", "paused")][:_MOST]:
        opened = await open_run(connection.client, store, line.request)
        progress = await progress_of(opened.handle) if opened is not None else None
        if progress is not None:
            found = {**dict.fromkeys(progress.running, "running"), **found, **dict.fromkeys(progress.held, "held")}
    return found
