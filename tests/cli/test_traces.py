"""A run writes one trace, whatever number of processes and attempts it took."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli.support import Project
from tests.cli.test_metrics import MODEL, a_project
from tests.cli.test_processes import workers_of
from tests.harness.model_server import ModelServer
from tests.harness.otlp_receiver import OtlpReceiver, ReceivedSpan

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def received() -> Iterator[OtlpReceiver]:
    with OtlpReceiver.started() as receiver:
        yield receiver


def named(received: OtlpReceiver, name: str) -> list[ReceivedSpan]:
    return [span for span in received.spans if span.name.split()[0] == name]


def test_a_rejected_row_has_its_whole_way_in_the_one_trace_of_two_processes_of_which_one_is_killed(
    tmp_path: Path, model_server: ModelServer, received: OtlpReceiver
) -> None:
    faults = [{"match": text, "action": "bad_json"} for text in ("number 9 ", "That answer is not valid")]
    project = a_project(tmp_path, model_server, 120, latency_ms=250, rules=faults)
    project.spec["trace"] = 0.2
    project.write()
    killed = 0
    with project.start("run", "--json", "--processes", "2", **received.env()) as run:
        while not run.out.rstrip().endswith("}"):
            if not killed and model_server.stats().answered_ok >= 40 and named(received, "chat"):
                with suppress(psutil.NoSuchProcess, ValueError):
                    one, *_ = workers_of(run.process.pid)
                    one.send_signal(signal.SIGKILL)
                    killed = one.pid
        report = json.loads(run.wait().out)
    assert killed
    assert (report["rows"]["ok"], report["rows"]["rejected"]) == (119, 1)
    check_tree(received)
    (rejected,) = (span for span in named(received, "row") if span.attributes["tandem.row.outcome"] == "rejected")
    chats = [span for span in named(received, "chat") if rejected in received.path(span)]
    way = [span.name for span in received.path(chats[-1])]
    assert way == ["run", "partition", "batch", "row", "stage triage", "node ask", "repair", f"chat {MODEL[7:]}"]
    assert rejected.attributes["tandem.row.id"] in project.tandem("rejects", "show", "--json").out
    assert [span.attributes["gen_ai.response.finish_reasons"] for span in chats] == [["stop"]] * 3
    rows = named(received, "row")
    assert len({span.attributes["tandem.row.id"] for span in rows}) == len(rows)
    assert 12 <= len(rows) <= 50
    (root,) = named(received, "run")
    assert root.attributes["tandem.rows.rejected"] == 1
    assert root.attributes["tandem.run"] == report["run"]
    activities = Counter(span.name for span in named(received, "RunActivity:open"))  # partitions of less than 100 rows
    assert activities["RunActivity:open"] >= len(named(received, "batch")) > 2
    assert len(named(received, "partition")) == 3


def check_tree(received: OtlpReceiver) -> None:
    """Assert that there is one trace, no span twice, and each parent is there and not shorter than its begin."""
    assert len({span.trace for span in received.spans}) == 1
    twice = [id for id, times in Counter(span.id for span in received.spans).items() if times > 1]
    assert twice == []
    for span in received.spans:
        assert received.path(span)[0].name == "run"
        assert span.began <= span.ended
        assert span.resource["service.name"] == "tandem"


def test_traces_hold_no_text_of_a_row_a_prompt_an_answer_or_an_exception_unless_the_spec_allows_it(
    tmp_path: Path, model_server: ModelServer, received: OtlpReceiver
) -> None:
    canary = "c4n4ry"
    (tmp_path / "mine.py").write_text(GRAPH)
    faults = [{"match": "number 4 ", "action": "error", "status": 400, "body": {"error": {"message": canary}}}]
    project = a_project(tmp_path, model_server, 9, rules=faults)
    (tmp_path / "rows.csv").write_text((tmp_path / "rows.csv").read_text().replace("about", canary))
    project.env["OPENAI_API_KEY"] = f"sk-{canary}"
    project.spec["stages"] = [
        {**project.stage, "system": canary},
        {"name": "mine", "uses": "mine:graph", "output": {"reply": "str"}},
    ]
    project.spec.update(trace=1.0, limits={"max_reject_rate": 1.0})
    project.write()
    traced: Any = {**received.env(), "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={canary}"}
    project.tandem("run", **traced).ok()
    assert len(named(received, "stage")) >= 16
    assert {span.attributes.get("error.type") for span in named(received, "node")} >= {"ValueError"}
    assert not [data for data in received.raw if canary.encode() in data]
    project.spec["trace_content"] = True
    project.write()
    project.tandem("run", "--reprocess", "all", "--fresh", "--yes", **traced).ok()
    texts: Any = [span.attributes for span in named(received, "chat") if "gen_ai.input.messages" in span.attributes]
    assert all(canary in one["gen_ai.input.messages"] and canary in one["gen_ai.system_instructions"] for one in texts)
    assert any(canary in span.attributes.get("tandem.row.values", "") for span in named(received, "row"))
    assert not [data for data in received.raw if f"sk-{canary}".encode() in data]


GRAPH = """
from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    body: str
    reply: str


def node(state: State) -> State:
    if "number 3 " in state["body"]:
        raise ValueError(state["body"])
    return {"reply": state["body"].upper()}


building = StateGraph(State)
building.add_node("node", node)
building.add_edge(START, "node")
building.add_edge("node", END)
graph = building.compile()
"""


def test_backends_that_are_away_neither_fail_nor_hold_up_a_run(tmp_path: Path) -> None:
    away: Any = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OPENLINEAGE__TRANSPORT__TYPE": "http",
        "OPENLINEAGE__TRANSPORT__URL": "http://127.0.0.1:9",
    }  # fmt: skip
    found = Project.make(tmp_path, count=6).tandem("run", "--log-format", "json", **away).ok()
    assert "not all spans could be sent" in found.err
    lines = [json.loads(line) for line in found.err.splitlines() if "an event of lineage was not sent" in line]
    assert [line["activity"] for line in lines] == ["plan", "plan", "finalise"]
    assert {len(line["trace_id"]) for line in lines} == {32}
