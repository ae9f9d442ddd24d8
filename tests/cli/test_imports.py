"""What commands import: one that only looks does not wait for what builds and runs graphs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

BUILDS_GRAPHS = {"langgraph", "langchain_core", "langsmith", "aiohttp", "pandas", "sqlglot", "snowballstemmer"}
FOR_CHILDREN = {"temporalio.worker", "pipeline.worker", "pipeline.processes.child.main"}
TABLES = {"polars", "pyarrow", "numpy"}
LOOK = (
    "pipeline.cli.commands.look.run_list",
    "pipeline.cli.commands.look.runs",
    "pipeline.cli.commands.look.outputs",
    "pipeline.cli.commands.look.partitions",
    "pipeline.cli.commands.look.rejects",
    "pipeline.cli.commands.change.control",
    "pipeline.cli.commands.change.review",
    "pipeline.cli.commands.change.schedule",
)
HELP = ("pipeline.cli.flags.app", "pipeline.cli.process")


def imported_by(*modules: str) -> set[str]:
    """The modules that a fresh interpreter has once it has imported these."""
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", LOOK)
def test_a_command_that_looks_imports_nothing_that_builds_or_runs_graphs(module: str) -> None:
    assert imported_by(*HELP, module) & (BUILDS_GRAPHS | FOR_CHILDREN) == set()


@pytest.mark.parametrize("module", ["pipeline.cli.commands.look.run_list", "pipeline.cli.commands.change.control"])
def test_a_command_that_asks_about_runs_imports_no_tables(module: str) -> None:
    assert imported_by(*HELP, module) & TABLES == set()


def test_help_imports_neither_tables_nor_a_client() -> None:
    assert imported_by(*HELP) & {"polars", "pyarrow", "numpy", "pydantic", "temporalio", *BUILDS_GRAPHS} == set()


@pytest.mark.parametrize("module", ["pipeline.cli.commands.work.plan", "pipeline.cli.commands.work.check"])
def test_a_command_that_builds_graphs_imports_no_parser_of_sql_and_no_worker(module: str) -> None:
    """A stage brings what it alone needs, LangGraph's engine included, and a child what children need."""
    imported = imported_by(*HELP, module)
    assert "stages.registry" in imported
    assert imported & {"langgraph.graph", "aiohttp", "pandas", "sqlglot", "snowballstemmer", *FOR_CHILDREN} == set()
