"""Pipelines at `--tier batch` against the model server's batch jobs, whose delays are fractions of a second."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from tests.cli.support import Project, write_csv
from tests.harness.model_server import ModelServer

GRAPHS = Path(__file__).parent / "waiting"
START = dt.datetime.fromisoformat("2026-11-01")


MODEL = "openai:gpt-5-mini"


def a_project(
    folder: Path, server: ModelServer, *, rows: int, days: int, graph: str = "", model: Any = MODEL, **stage: Any
) -> Project:
    """A pipeline over so many days; its stage is an extract, or a graph that waits."""
    folder.mkdir(exist_ok=True)
    root = server.base_url.removesuffix("/v1")
    env = {
        "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-test",
        "ANTHROPIC_BASE_URL": root, "ANTHROPIC_API_KEY": "sk-test",
        "GOOGLE_GEMINI_BASE_URL": root, "GOOGLE_API_KEY": "sk-test",
        "TANDEM_JOB_POLL": "300ms", "TANDEM_JOB_MARGIN": "2s",
    }  # fmt: skip
    project = Project.make(folder, env, count=3, model=model)
    table = [
        {
            "id": number,
            "created_at": (START + dt.timedelta(days=number % days, minutes=number // days)).isoformat(),
            "body": f"message number {number} about",
        }
        for number in range(rows)
    ]
    write_csv(folder / "rows.csv", table)
    if graph:
        shutil.copy(GRAPHS / "graphs.py", folder / "graphs.py")
        project.spec["stages"] = [
            {"name": "answer", "uses": f"graphs:{graph}", "model": model, "inputs": {"text": "body"},
             "output": {"reply": "str"}, **stage}
        ]  # fmt: skip
    project.spec["limits"] = {"gather": "1m"}
    project.write()
    return project


def published(project: Project) -> list[tuple[Any, ...]]:
    found = pl.read_parquet(f"{project.folder}/out/data/**/*.parquet")
    return found.sort("id").select("id", found.columns[-2]).rows()


def quick_jobs(server: ModelServer, **jobs: Any) -> None:
    server.script({"jobs": {"queue_s": 0.2, "run_s": 0.3, "shuffle": True, **jobs}})
