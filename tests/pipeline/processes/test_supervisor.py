"""The supervisor's care of one worker process after the other."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from pipeline.processes import supervisor
from pipeline.processes.deaths import Death
from pipeline.processes.supervisor import Processes, Workers


class StartedLate:
    """A process that is started when its command ends already, and ends when it is told to."""

    def __init__(self) -> None:
        self.death: asyncio.Future[Death] = asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        self.death.set_result(Death(0, ready=True))


async def test_a_process_that_was_being_started_as_the_command_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> None: ...

    monkeypatch.setattr(supervisor, "watch_child", nothing)
    monkeypatch.setattr(supervisor, "fail_activities", nothing)
    workers = Workers(cast(Any, _Connection()), "queue", Processes(1, print))
    child = StartedLate()

    async def start(*_: object) -> StartedLate:
        workers.stopping.set()
        return child

    monkeypatch.setattr(workers, "_start", start)
    async with asyncio.timeout(20):
        await workers.keep(1, print)
    assert child.death.done()
    assert workers.children == {}


class _Connection:
    client = None
    embedded = None
