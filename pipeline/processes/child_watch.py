"""Watch of a child from outside: does its loop turn, does its interpreter run at all."""

import asyncio
import base64
import contextlib
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from temporalio.api.workflowservice.v1 import RecordActivityTaskHeartbeatRequest
from temporalio.client import Client
from temporalio.service import RPCError

from pipeline.processes.children import Child

_LOOK_EVERY_S = 1.0
_STARVED_S = 3.0  # the watching thread, which turns four times a second, has not turned for so long
_BLOCKED_S = 3.0
_GIVEN_UP_S = 600.0
_NAMED_ROWS = 3
_ANSWER_WITHIN = timedelta(seconds=5)


async def watch_child(client: Client, child: Child, report: Callable[[str], None]) -> None:
    """Watch a child until cancelled. While a row's code holds the loop, send heartbeats for its activities, so that no
    other process begins them; a child whose interpreter has stood still for ten minutes is killed, as its own fault."""
    reported = False
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        turned, watched = child.table.times()
        now = time.monotonic()
        if not watched or _is_stopped(child.pid):
            continue
        starved = now - watched
        if starved < _STARVED_S:
            reported = False
        elif not reported:
            reported = True
            report(f"does not answer: code in C holds the interpreter{_rows(child)}")
        if starved > _GIVEN_UP_S:
            child.stuck = True
            child.kill()
        elif turned and now - turned > _BLOCKED_S:
            await _keep_alive(client, child)


async def _keep_alive(client: Client, child: Child) -> None:
    for _, activity in child.table.activities.read():
        token = base64.b64decode(activity["token"])
        request = RecordActivityTaskHeartbeatRequest(namespace=client.namespace, task_token=token)
        with contextlib.suppress(RPCError):
            await client.workflow_service.record_activity_task_heartbeat(request, timeout=_ANSWER_WITHIN)


def _rows(child: Child) -> str:
    rows = [f"stage {row['stage']}, row {row['id']}" for _, row in child.table.rows.read()]
    more = ", …" if len(rows) > _NAMED_ROWS else ""
    return f"; in flight: {', '.join(rows[:_NAMED_ROWS])}{more}" if rows else ""


def _is_stopped(pid: int) -> bool:
    """True if stopped by SIGSTOP or a debugger: such a process counts as dead."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in ("T", "t")
