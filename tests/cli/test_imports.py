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


def imported_by(*modules: str, then: str = "") -> set[str]:
    """The modules that a fresh interpreter has once it has imported these, and run some code."""
    code = f"import json, sys, {', '.join(modules)}\n{then}\nprint(json.dumps(list(sys.modules)))"
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


def test_children_have_what_their_stages_build_and_nothing_of_langchains_engine() -> None:
    """Half a second and 40 MB of each command, which stages without a graph of steps do without."""
    children = "from pipeline.processes.fork_server import serving; serving.work_of_children"
    plain = imported_by("json", then=f"{children}(['extract', 'embed', 'classify'])")
    assert {"stages.graphs.classify", "genai_prices.data", "aiohttp", *FOR_CHILDREN} <= plain
    assert (
        plain & {"langsmith", "langgraph.types", "langgraph.pregel", "langchain_core.tools", "pandas", "sqlglot"}
        == set()
    )
    assert {"sqlglot", "langgraph.pregel"} <= imported_by("json", then=f"{children}(['sql', 'agent', 'x:y', 'no'])")


def test_a_row_of_extract_is_answered_without_langchains_engine() -> None:
    row = """
import asyncio, pathlib, sys
import pyarrow as pa
from schemas.spec.sections import Spec
from stages.execution.attempt import BatchContext
from stages.execution.batch import run_graph_stage
from stages.execution.equal_rows.single_flight import Shared
from stages.journal.known import Known
from stages.journal.writer import Journal
from stages.models.settings.choice import ModelServices
from stages.registry import build_stages
import polars as pl

spec = Spec.model_validate({"name": "x", "source": {"path": "x.csv"}, "sink": {"path": "out"}, "stages": [
    {"name": "s", "uses": "extract", "model": "offline:lexical", "prompt": "{{ text }}", "output": {"word": "str"}}]})
[stage] = build_stages(spec, pa.schema([("text", pa.string())]), base=pathlib.Path(), services=ModelServices())

async def put(data): pass

async def answered():
    context = BatchContext("run", 0, Journal(put, known=Known([])), Shared(), asyncio.Event())
    found = await run_graph_stage(stage, pl.DataFrame({"text": ["late refund"]}), ["1"], context)
    await context.journal.close()
    return found.records[0].status

assert asyncio.run(answered()) == "ok"
"""
    assert (
        imported_by("json", then=row) & {"langsmith", "langgraph.types", "langgraph.pregel", "langchain_core.tools"}
        == set()
    )
