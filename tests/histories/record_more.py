"""Record more of what happens to runs: python -m tests.histories.record_more [CASE …]

By the command line alone, on a real server, so that it outlives every move of the code: a pause, a budget that is too
small, a canary, a schedule's firing, rows with workflows of their own, a limit that is shared, a question to a person,
a partition that another run holds, a worker that drains, waves of provider jobs. Histories of runs and partitions lie
beside those of `record.py`, and those of the other workflows in `others/`. As there: record them anew only when
commands change.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

from temporalio.client import Client

from tests.cli.half_price import GRAPHS, quick_jobs
from tests.cli.support import Project, Result, Started, eventually, rows, write_csv
from tests.harness.model_server import ModelServer
from tests.harness.servers import TemporalServer
from tests.histories.record import scrubbed

HERE = Path(__file__).parent
PATIENCE_S = 400.0
FOLDER = Path("/srv/tandem-histories")  # of nobody's machine: a history holds the sink, of which workflow ids are made
ASKING = """
    from typing import TypedDict
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import interrupt

    class State(TypedDict, total=False):
        body: str
        parts: list[str]
        word: str

    def split(state: State) -> State:
        return {"parts": state["body"].split()}

    def decide(state: State) -> State:
        if "number 4 " not in state["body"]:
            return {"word": state["parts"][0]}
        return {"word": str(interrupt("What of it?"))}

    graph = StateGraph(State)
    graph.add_node("split", split)
    graph.add_node("decide", decide)
    graph.add_edge(START, "split")
    graph.add_edge("split", "decide")
    graph.add_edge("decide", END)
"""


# Row 4 is at work for as long as the file `hold` is there: moments are those of the work, not of a clock.
HOLDING = """
    import asyncio
    from pathlib import Path
    from typing import TypedDict
    from langgraph.graph import END, START, StateGraph

    HERE = Path(__file__).parent

    class State(TypedDict, total=False):
        body: str
        word: str

    async def work(state: State) -> State:
        if "number 4 " in state["body"]:
            (HERE / "began").touch()
            while (HERE / "hold").exists():
                await asyncio.sleep(0.1)
        return {"word": "done"}

    graph = StateGraph(State)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
"""


@dataclass
class Case:
    """A project of twelve rows in three days, and what works on it."""

    project: Project
    server: TemporalServer
    before: set[str]

    def graph(self, source: str, **stage: Any) -> None:
        """A stage of one's own instead of the usual one."""
        (self.project.folder / "deciding.py").write_text(dedent(source))
        told = {"name": "decide", "uses": "deciding:graph", "output": {"word": "str"}}
        self.project.spec["stages"] = [{**told, **stage}]
        self.project.write()

    def hold(self) -> None:
        (self.project.folder / "hold").touch()
        self.graph(HOLDING)

    def has_begun(self) -> None:
        eventually((self.project.folder / "began").exists, "row 4 at work", timeout_s=PATIENCE_S)

    def release(self) -> None:
        (self.project.folder / "hold").unlink()

    @contextlib.contextmanager
    def running(self, *options: str, name: str = "recorded") -> Iterator[Started]:
        with self.project.start("run", "--name", name, "--yes", "--json", *options) as run:
            yield run

    def tandem(self, *command: str) -> Result:
        return self.project.tandem(*command, timeout_s=PATIENCE_S)

    def state(self) -> str:
        return str(self.tandem("runs", "show", "recorded", "--json").json.get("state"))

    def histories(self) -> dict[str, Any]:
        found = asyncio.run(histories(self.server))
        return {id: kept for id, kept in found.items() if id not in self.before}

    def ended(self, kind: str, count: int) -> None:
        """So many workflows of a kind have come to their ends."""

        def are_there() -> bool:
            ends = [kept["events"][-1]["eventType"] for kept in self.histories().values() if kind_of(kept) == kind]
            return ends.count("EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED") == count

        eventually(are_there, f"{count} {kind} ended", timeout_s=PATIENCE_S)


def paused(case: Case) -> None:
    case.project.spec["limits"]["partitions_in_flight"] = 1  # so that one is not begun
    case.hold()
    with case.running() as run:
        case.has_begun()
        case.tandem("runs", "pause", "--reason", "looking at it").ok()
        case.release()
        time.sleep(3)
        with case.project.start("runs", "resume", "--json"):
            run.wait(PATIENCE_S).ok()


def short(case: Case) -> None:
    case.project.spec["prices"] = {"openai:test-model": {"input": 1000.0, "output": 1000.0}}
    case.project.stage["params"] = {"max_tokens": 20}
    case.project.write()
    with case.running("--max-cost", "0.05", "--wait") as run:
        eventually(lambda: case.state() == "paused", "the budget is reached", timeout_s=PATIENCE_S)
        case.tandem("runs", "set", "--max-cost", "100").ok()
        run.wait(PATIENCE_S).ok()


def canary(case: Case) -> None:
    dates = ("--from-date", "2026-11-01", "--to-date", "2026-11-03")
    case.tandem("backfill", *dates, "--canary", "3", "--name", "recorded", "--yes").ok()


def scheduled(case: Case) -> None:
    """Two firings; the second has nothing to do, and a result to begin from."""
    case.project.spec["schedule"] = {"cron": "0 3 1 1 *", "lookback": "36500d"}
    case.project.write()
    case.tandem("schedule", "apply").ok()
    for number in (1, 2):
        case.tandem("schedule", "trigger").ok()
        case.ended("ScheduledWorkflow", number)
    case.tandem("schedule", "delete").ok()


def node(case: Case) -> None:
    write_csv(case.project.folder / "rows.csv", rows(6))
    case.graph(ASKING, placement="node")
    case.tandem("run", "--name", "recorded", "--yes").ok()


def limited(case: Case) -> None:
    case.project.spec["limits"]["requests_per_minute"] = 240
    case.project.write()
    case.tandem("run", "--name", "recorded", "--yes").ok()
    case.ended("LimiterWorkflow", 1)


def asked(case: Case) -> None:
    case.graph(ASKING, pending="wait")
    with case.running() as run:
        eventually(lambda: bool(case.tandem("review", "ls", "--json").json), "the question", timeout_s=PATIENCE_S)
        case.tandem("review", "answer", "--row", "4", "--answer", "well").ok()
        run.wait(PATIENCE_S).ok()


def held(case: Case) -> None:
    """Another run wants what the first is at work on, and waits for it."""
    case.hold()
    with case.running("--partition", "day=2026-11-02") as first:
        case.has_begun()
        with case.running("--reprocess", "all", name="other") as other:
            eventually(lambda: "wanted_by" in json.dumps(case.histories()), "the other waits", timeout_s=PATIENCE_S)
            case.release()
            first.wait(PATIENCE_S).ok()
            other.wait(PATIENCE_S).ok()


def drained(case: Case) -> None:
    """The worker is told to stop in the middle of a batch, and another one goes on."""
    case.hold()
    with case.project.start("worker") as one, case.running() as run:
        case.has_begun()
        with case.project.start("worker"):
            one.process.send_signal(signal.SIGTERM)
            time.sleep(2)
            case.release()
            one.wait(PATIENCE_S).ok()
            run.wait(PATIENCE_S).ok()


def waiting(case: Case) -> None:
    """Three waves of provider jobs, over which the run and the jobs continue as new."""
    shutil.copy(GRAPHS / "graphs.py", case.project.folder / "graphs.py")
    steps = {"uses": "graphs:steps", "inputs": {"text": "body"}, "output": {"reply": "str"}}
    case.project.spec["stages"] = [{"name": "answer", "model": "openai:test-model", **steps}]
    case.project.spec["limits"]["gather"] = "1m"
    case.project.write()
    case.tandem("run", "--name", "recorded", "--tier", "batch", "--yes").ok()
    case.ended("JobsWorkflow", 1)


CASES: dict[str, Callable[[Case], None]] = {
    case.__name__: case for case in (paused, short, canary, scheduled, node, limited, asked, held, drained, waiting)
}
_FEW_EVENTS = 40  # of a history that is continued


# Recording ------------------------------------------------------------------------------------------------------------


def record(case: str, server: TemporalServer, model: ModelServer, target: Path) -> None:
    folder = FOLDER / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.reset()
    quick_jobs(model)
    before = set(asyncio.run(histories(server)))
    env = {**model.env(), **server.env(), "TANDEM_TASK_QUEUE": f"histories-{case}", "TANDEM_JOB_POLL": "300ms"}
    project = Project.make(folder, env, count=12, model="openai:test-model")
    project.spec["limits"] = {"rows_in_flight": 2, "batch_rows": 2, "partitions_in_flight": 2}
    project.write()
    with contextlib.ExitStack() as stack:
        if case != "drained":
            worker = stack.enter_context(project.start("worker"))
        at_work = Case(project, server, before)
        CASES[case](at_work)
        if case != "drained":
            worker.end(signal.SIGTERM, PATIENCE_S)
    found = at_work.histories()
    runs = {id: kept for id, kept in found.items() if kind_of(kept) in ("RunWorkflow", "PartitionWorkflow")}
    write(target / f"{case}.json", runs)
    if others := {id: kept for id, kept in found.items() if id not in runs}:
        write(target / "others" / f"{case}.json", others)


async def histories(server: TemporalServer) -> dict[str, Any]:
    """Every execution's history: of the id alone where that was used once."""
    client = await Client.connect(server.address)
    found = {}
    async for execution in client.list_workflows():
        handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
        kept = scrubbed(json.loads((await handle.fetch_history()).to_json()))
        name = execution.id if execution.id not in found else f"{execution.id} {execution.run_id}"
        found[name] = kept
    return found


def kind_of(history: Any) -> str:
    return str(history["events"][0]["workflowExecutionStartedEventAttributes"]["workflowType"]["name"])


def write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def main(cases: list[str]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        TemporalServer.start(Path(folder) / "usual") as server,
        TemporalServer.start(Path(folder) / "continued", _FEW_EVENTS) as continued,
        ModelServer.start() as model,
    ):
        for case in cases:
            record(case, continued if case == "waiting" else server, model, HERE)
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
