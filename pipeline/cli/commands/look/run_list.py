"""`tandem runs list`. Never starts a server or a worker, so that looking costs nothing."""

import asyncio
from pathlib import Path
from typing import Any

from pipeline.cli.screen.console import Screen, money
from pipeline.client.connection import connected_if_running
from pipeline.operations.find_run import all_runs, report_of
from pipeline.runs.report import as_json


async def list_command(screen: Screen) -> int:
    """List runs."""
    found = await asyncio.to_thread(all_runs)
    listed: list[dict[str, Any]] = []
    async with connected_if_running(Path.cwd()) as connection:
        for store, request in found:
            listed.append(as_json(await report_of(connection, store, request)))
    if screen.json:
        screen.document(listed)
        return 0
    screen.table(
        ("run", "state", "started (UTC)", "published", "unchanged", "failed", "rows", "cost"),
        [
            (
                f"{item['pipeline']}/{item['run']}",
                item["state"],
                item["started_at"].replace("T", " ").removesuffix("Z"),
                *(item["partitions"][name] for name in ("published", "unchanged", "failed")),
                item["rows"]["out"],
                money(item["usage"]["cost_usd"]),
            )
            for item in listed
        ],
    )
    for item in listed:
        if item["state"] in ("running", "paused") and item.get("reason"):
            screen.result(f"{item['pipeline']}/{item['run']}: {item['reason']}")
    if not listed:
        screen.note("Nothing has run here yet. Start with: tandem run")
    return 0
