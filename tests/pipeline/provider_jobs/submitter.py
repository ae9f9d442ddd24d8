"""Processes that submit and collect a job and are killed at a step, and those that carry on after them: forked, so that
each dies alone, from one that has everything imported.

    python -m tests.pipeline.provider_jobs.submitter FOLDER SERVER PROVIDER=STEP…

STEP is the end of a key that is written, or a call of the provider, after which SIGKILL comes; or a number of seconds.
Prints the names of the jobs, and the numbers of their requests that were answered in the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pipeline.journal.usage import usage_of_run
from pipeline.provider_jobs.base import JobClient
from pipeline.stores.local import LocalStore
from stages.models.wires.http import close_session
from tests.harness.model_server import ModelServer
from tests.pipeline.provider_jobs.support import NAMED, RUN, Case, park, some, to_the_end

STEPS = ("intent.json", "upload", "claims/0001.json", "create", "submitted.json")
ROWS = 5


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


class DeadlyStore(LocalStore):
    """Kills the process after it has written a key that ends so."""

    step = ""

    def put_new(self, key: str, data: bytes) -> None:
        super().put_new(key, data)
        if self.step and key.endswith(self.step):
            die()


def deadly(client: JobClient, step: str) -> JobClient:
    """The same client, whose process is killed after a call of this name has succeeded."""

    def killing(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def then_die(*args: Any) -> Any:
            await call(*args)
            die()

        return then_die

    if step in ("upload", "create"):
        setattr(client, step, killing(getattr(client, step)))
    return client


class Address(ModelServer):
    """A server that another process has started."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url


def attempt(folder: Path, case: Case, server: ModelServer, step: str) -> None:
    """Submit the job of a folder and collect it, and die at the step."""
    DeadlyStore.step = step
    if step.replace(".", "").isdecimal():
        threading.Timer(float(step), die).start()
    store = DeadlyStore(folder)
    client = deadly(case.client(server), step)
    key = park(store, "day=1", 0, some(case.model(server), case, rows_of(folder)))
    asyncio.run(to_the_end(store, [key], client, case.backend()))


def finish(folder: Path, case: Case, server: ModelServer) -> None:
    """Carry on to the end in a process of its own, and write down what was answered, and is in the journal."""

    async def carry_on() -> int:
        store, client = LocalStore(folder), case.client(server)
        key = park(store, "day=1", 0, some(case.model(server), case, rows_of(folder)))
        ends = await to_the_end(store, [key], client, case.backend())
        await close_session()
        return min(sum(end.answered for end in ends), usage_of_run(store, "day=1", RUN).calls)

    (folder / "answered").write_text(str(asyncio.run(carry_on())), encoding="ascii")


def rows_of(folder: Path) -> range:
    """The rows of a folder's job, none of which another folder has."""
    first = ROWS * int(folder.name)
    return range(first, first + ROWS)


def in_a_process(work: Callable[[], None]) -> int:
    """The signal that ended the process, 0 for none."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


def main() -> None:
    root, url, *jobs = sys.argv[1:]
    server, found = Address(url), []
    for number, one in enumerate(jobs):
        name, _, step = one.partition("=")
        folder, case = Path(root) / str(number), NAMED[name]
        folder.mkdir(parents=True)
        died = in_a_process(lambda: attempt(folder, case, server, step))  # noqa: B023  run at once
        in_a_process(lambda: finish(folder, case, server))  # noqa: B023
        answered = folder / "answered"
        found.append([one, died, int(answered.read_text(encoding="ascii")) if answered.exists() else 0])
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
