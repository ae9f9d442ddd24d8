"""Graphs of many calls a row, killed in the middle of their rows: what was answered is not asked again."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Project, eventually
from tests.cli.test_run import check_report
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(900)
IN_FLIGHT, CHUNKS, STEPS = 4, 6, 6
TOOLS = '''
def stock(item: str) -> str:
    """How many there are."""
    return f"7 of {item}"
'''


def _text(match: str, answer: Any) -> dict[str, Any]:
    return {"match": match, "action": "text", "text": json.dumps(answer)}


def test_a_kill_in_mid_graph_costs_the_calls_in_flight(tmp_path: Path, model_server: ModelServer) -> None:
    """Six rows, each a summary of six chunks and an agent of six steps."""
    rows = [{"id": at, "body": " ".join(f"Row {at} says that part {part} is late." for part in range(40))}
            for at in range(6)]  # fmt: skip
    (tmp_path / "rows.ndjson").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "shop_tools.py").write_text(TOOLS)
    project = Project(tmp_path, model_server.env())
    model = "openai:test-model"
    project.spec = {
        "name": "graphs",
        "source": {"path": "rows.ndjson", "key": ["id"]},
        "stages": [
            {"name": "short", "uses": "summarize", "model": model, "prompt": "{{ body }}",
             "output": {"gist": "str"}, "with": {"chunk_tokens": 60}},
            {"name": "act", "uses": "agent", "model": model, "prompt": "Do it: {{ id }} {{ gist }}",
             "output": {"done": "str"}, "tools": ["shop_tools:stock"]},
        ],
        "limits": {"rows_in_flight": IN_FLIGHT},
        "sink": {"path": "out"},
    }  # fmt: skip
    project.write()
    call = {"match": "Do it", "action": "tool_calls", "turns": STEPS - 1,
            "tool_calls": [{"name": "stock", "arguments": {"item": "lamp"}}]}  # fmt: skip
    rules = [
        call,
        _text("Do it", {"done": "yes"}),
        _text("<notes", {"gist": "late"}),
        _text("<text", {"notes": "late"}),
    ]
    model_server.script({"latency_ms": 150, "rules": rules})
    with project.start("run", "--json") as first:
        eventually(lambda: model_server.stats().answered_ok >= 20, "twenty answers")
        first.end(signal.SIGKILL)
    with project.start("run", "--json") as second:
        eventually(lambda: model_server.stats().answered_ok >= 60, "sixty answers")
        second.end(signal.SIGKILL)
    report = check_report(project.tandem("run", "--json", timeout_s=400).ok().json)
    assert report["rows"]["ok"] == len(rows)
    stats = model_server.stats()
    assert stats.contents >= len(rows) * (CHUNKS + STEPS)
    assert stats.answered_ok <= stats.contents + 2 * IN_FLIGHT
