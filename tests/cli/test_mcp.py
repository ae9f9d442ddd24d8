"""An MCP server in whole commands: checked, used by workers, its results known after a kill; and one that is broken."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import Project, Started, eventually, write_csv
from tests.harness.model_server import ModelServer
from tests.harness.processes import ROOT

pytestmark = [pytest.mark.commands, pytest.mark.timeout(900)]
ROWS = 6


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer.start() as found:
        yield found


def test_an_agent_uses_a_server_over_kills_and_pays_for_nothing_twice(tmp_path: Path, server: ModelServer) -> None:
    log, project = tmp_path / "log", Project(tmp_path)
    write_csv(tmp_path / "rows.csv", [{"id": at, "text": f"row {at}"} for at in range(ROWS)])
    command = [sys.executable, "-m", "tests.harness.mcp_shop", str(log)]
    project.spec = {
        "name": "shop",
        "source": {"path": "rows.csv", "key": ["id"]},
        "mcp": {"shop": {"command": command, "env": {"SHOP_TOKEN": "${SHOP_TOKEN}", "PYTHONPATH": str(ROOT)}}},
        "stages": [{"name": "a", "uses": "agent", "model": "openai:test-model", "prompt": "{{ text }}",
                    "output": {"answer": "str"}, "tools": ["mcp:shop"]}],
        "sink": {"path": "out"},
    }  # fmt: skip
    project.write()
    project.env = {**server.env(), "SHOP_TOKEN": "t"}
    checked = project.tandem("check", "--json").ok().json
    assert checked["mcp"]["shop"]["transport"] == "stdio"
    assert "stock" in checked["mcp"]["shop"]["tools"]
    log.unlink()
    stock = {"action": "tool_calls", "tool_calls": [{"name": "stock", "arguments": {"item": "lamp"}}]}
    server.script({"rules": [stock, {"action": "hang"}]})
    with Started("run", "--json", "--name", "r", cwd=tmp_path, env=project.env) as killed:
        eventually(lambda: log.exists() and log.read_text().count("stock") == ROWS, "all tools are called")
        eventually(lambda: server.stats().requests == 2 * ROWS, "the model is asked again")
        killed.end(signal.SIGKILL)
    server.script({"rules": [{"action": "text", "text": '{"answer": "fine"}'}]})
    report = project.tandem("run", "--json", "--name", "r").ok().json
    assert report["rows"]["ok"] == ROWS
    assert log.read_text().count("stock") == ROWS
    again = project.tandem("run", "--json", "--reprocess", "all").ok().json
    assert (again["rows"]["ok"], again["usage"]["calls"]) == (ROWS, 0)
    assert log.read_text().count("stock") == ROWS

    broken = [sys.executable, "-c", "import sys; sys.exit('no such shop')"]
    project.spec["mcp"]["shop"] = {"command": broken}
    project.write()
    refused = project.tandem("check")
    assert refused.code == 4
    assert "MCP server 'shop' cannot be started: no such shop" in refused.err
    stopped = project.tandem("run", "--reprocess", "all")
    assert stopped.code == 3
    assert "MCP server 'shop' cannot be started: no such shop" in stopped.err + stopped.out
    assert "Traceback" not in stopped.err
