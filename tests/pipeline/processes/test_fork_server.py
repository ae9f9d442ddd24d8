"""What a process is forked from: children of one whose Polars has computed something would wait for ever."""

from __future__ import annotations

import subprocess
import sys

_IMPORTS = """
import importlib, pkgutil, time
import pipeline.cli.__main__
import pipeline.cli
from pipeline.processes import fork_server
for module in pkgutil.walk_packages(pipeline.cli.__path__, "pipeline.cli."):
    importlib.import_module(module.name)
fork_server._work_of_children()
print(fork_server._polars_has_threads())
import polars as pl
pl.DataFrame({"a": [1]}).select(pl.col("a") + 1)
for _ in range(500):  # a thread names itself, when it first runs
    if not fork_server._polars_has_threads():
        time.sleep(0.01)
print(fork_server._polars_has_threads())
fork_server.prepare()
print(len(fork_server._servers))
"""


def _printed(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_no_import_of_ours_lets_polars_compute_and_what_computed_is_not_forked() -> None:
    assert _printed(_IMPORTS) == ["False", "True", "0"]
