"""Real processes to be hurt: the model server, `tandem` with its embedded server or with a Temporal and workers of its
own, a polling reader, and a fault-free twin to compare with.

Moments are those of the work, not of a clock: so many calls answered, or an object that appeared in the sink.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from temporalio.client import Client

from pipeline.embedded.server import EmbeddedServer
from pipeline.stores import LocalStore, Store
from schemas import digests, ids
from tests.cli.support import Result, Started, eventually
from tests.faults.checker import Allowed, Observed, Twin, billed, check, twin_of
from tests.faults.reader import Polling
from tests.harness.ledger import Call
from tests.harness.model_server import ModelServer
from tests.harness.servers import TemporalServer

KEY, PART = "id", "part"
IN_FLIGHT = 64
HEARTBEAT_S = 10.0  # pipeline.workflows.policies.HEARTBEAT: how long a dead worker is waited for
FLUSH_S = 1.0
NAME = "faults"


def table(count: int, *, parts: int = 2, poison: int = 0) -> pl.DataFrame:
    """Rows with a text of their own, dealt to partitions; every `poison`-th says so."""
    said = ["poison" if poison and n % poison == poison // 2 else "message" for n in range(count)]
    return pl.DataFrame(
        {
            KEY: range(count),
            PART: [f"p{n * parts // count}" for n in range(count)],
            "body": [f"{word} number {n} about a thing" for n, word in enumerate(said)],
        }
    )


def spec_of(**changed: Any) -> dict[str, Any]:
    """A pipeline of one call a row over `rows.parquet`; `limits`, `journal`, `stage` are merged in."""
    stage = {
        "name": "triage",
        "uses": "extract",
        "model": "openai:test-model",
        "prompt": "{{ body }}",
        "output": {"mood": {"type": "enum", "values": ["good", "bad"]}, "level": {"type": "int", "ge": 1, "le": 5}},
    }
    return {
        "name": changed.pop("name", NAME),
        "source": {"path": changed.pop("source", "rows.parquet"), "key": [KEY]},
        "partition": {"by": "column", "column": PART},
        "stages": [{**stage, **changed.pop("stage", {})}],
        "sink": {"path": changed.pop("sink", "out")},
        "limits": {"rows_in_flight": IN_FLIGHT, "batch_rows": 250, **changed.pop("limits", {})},
        "prices": {"openai:test-model": {"input": 1.0, "output": 2.0}},
        **changed,
    }


@dataclass
class Rig:
    """A folder with a table and a spec, and the processes that work on it."""

    folder: Path
    model: ModelServer
    rows: pl.DataFrame
    spec: dict[str, Any] = field(default_factory=spec_of)
    env: dict[str, str] = field(default_factory=dict)
    store: Store = field(init=False)
    temporal: TemporalServer | None = None
    reader: Polling | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.env = {**self.model.env(), "TANDEM_SPOOL": str(self.folder / "spool"), **self.env}
        self.store = LocalStore(self.folder / "out")
        self.write()

    def write(self) -> None:
        """The table and the spec as they are now."""
        self.rows.write_parquet(self.folder / "rows.parquet")
        (self.folder / "tandem.yaml").write_text(yaml.safe_dump(self.spec, sort_keys=False))

    # Processes ------------------------------------------------------------------------------------------------------

    def start(self, *args: str, **env: str) -> Started:
        return Started(*args, cwd=self.folder, env={**self.env, **env})

    def run(self, *args: str, **env: str) -> Started:
        """`tandem run`, with a worker in it where no Temporal is configured."""
        return self.start("run", "--json", *args, **env)

    def finish(self, *args: str, timeout_s: float = 120, **env: str) -> Result:
        """`tandem run` to its end, which is a good one."""
        with self.run(*args, **env) as process:
            return process.wait(timeout_s).ok()

    def finish_again(self) -> Result:
        """The same command once more, where the first may have lost its connection."""
        with self.run() as process:
            return process.wait(120)

    @contextlib.contextmanager
    def workers(self, temporal: TemporalServer, count: int) -> Iterator[list[Started]]:
        """A configured Temporal, and workers as processes of their own."""
        self.temporal = temporal
        self.env |= {**temporal.env(), "TANDEM_TASK_QUEUE": f"queue-{digests.digest(self.store.uri)[:12]}"}
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.start("worker")) for _ in range(count)]

    @contextlib.contextmanager
    def read(self) -> Iterator[Polling]:
        """A reader that polls for as long as the block lasts."""
        with Polling.start(self.store.uri, KEY, self.env) as self.reader:
            yield self.reader

    # Moments --------------------------------------------------------------------------------------------------------

    def answered(self, count: int, *, timeout_s: float = 60) -> None:
        """Wait until the model server has answered so often."""
        eventually(lambda: self.model.stats().answered_ok >= count, f"{count} answers", timeout_s)

    def appears(self, pattern: str, *, timeout_s: float = 60) -> None:
        """Wait until the sink has an object, by a glob of its folder."""
        root = self.folder / "out"
        until = time.monotonic() + timeout_s
        while not any(root.glob(pattern)):
            assert time.monotonic() < until, f"no {pattern} within {timeout_s:g} s"
            time.sleep(0.001)

    # Looking --------------------------------------------------------------------------------------------------------

    def calls(self) -> list[Call]:
        return self.model.calls()

    @property
    def billed(self) -> int:
        return billed(self.calls())

    def running(self) -> list[str]:
        """Workflows of this sink that Temporal still runs; of the embedded server, started once more to be asked."""
        return asyncio.run(self._running())

    async def _running(self) -> list[str]:
        if self.temporal is not None:
            return await _open_workflows(self.temporal.address, self.store.uri)
        async with await EmbeddedServer.join(self.folder / ".home") as server:
            return await _open_workflows(server.info.address, self.store.uri)

    def check(self, twin: Twin, **allowed: Any) -> Observed:
        """All invariants."""
        seen = self.reader.stop() if self.reader is not None else None
        return check(
            self.store,
            self.rows,
            key=KEY,
            partition=PART,
            twin=twin,
            calls=self.calls(),
            running=self.running(),
            reader=seen,
            allowed=Allowed(**allowed),
        )


async def _open_workflows(address: str, sink: str) -> list[str]:
    """Asked a few times: what Temporal lists follows what it knows by some tenths of a second."""
    client = await Client.connect(address)
    found: list[str] = []
    for _ in range(15):
        listed = client.list_workflows("ExecutionStatus = 'Running'")
        found = [one.id async for one in listed if f"/{ids.sink_digest(sink)}/" in one.id]
        if not found:
            break
        await asyncio.sleep(0.2)
    return found


# The fault-free twin -------------------------------------------------------------------------------------------------


class Twins:
    """Fault-free runs, each once a session: the same table and spec give the same twin."""

    def __init__(self, folder: Path, model: ModelServer) -> None:
        self._folder = folder
        self._model = model
        self._found: dict[str, Twin] = {}

    def of(self, rig: Rig, *, rules: tuple[Mapping[str, Any], ...] = ()) -> Twin:
        """`rules` are those of the model that belong to the work, not to the fault."""
        spec = {
            **{name: value for name, value in rig.spec.items() if name not in ("journal", "limits")},
            "source": {"path": "rows.parquet", "key": [KEY]},
            "sink": {"path": "out"},
        }
        graphs = [path.read_text() for path in sorted(rig.folder.glob("*.py"))]
        name = digests.digest(json.dumps([spec, graphs, rules, rig.rows.to_dicts()]))
        if name not in self._found:
            self._model.reset()
            self._model.script({"rules": list(rules)})
            twin = Rig(self._folder / name, self._model, rig.rows, spec)
            for path in rig.folder.glob("*.py"):
                (twin.folder / path.name).write_bytes(path.read_bytes())
            twin.finish()
            self._found[name] = twin_of(twin.store, twin.calls())
        return self._found[name]


# Counting what a fault may cost --------------------------------------------------------------------------------------


def answered_within(calls: list[Call], until: float, seconds: float) -> int:
    """Calls answered in the last `seconds` before a moment (epoch seconds): what a flush interval may have held."""
    return sum(call.answered and call.t_end is not None and until - seconds <= call.t_end <= until for call in calls)


def asked_after(calls: list[Call], moment: float) -> list[Call]:
    """Requests that reached the model server after a moment."""
    return [call for call in calls if call.t_start > moment]


def pause(process: Started) -> None:
    process.process.send_signal(signal.SIGSTOP)


def thaw(process: Started) -> None:
    process.process.send_signal(signal.SIGCONT)


def measured(name: str, **numbers: Any) -> None:
    """A line for `make prove`, which shows output."""
    print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in numbers.items()))
