"""Twins need a model server of their own, whose log nobody else writes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.faults.rig import Rig, Twins, spec_of
from tests.harness.model_server import ModelServer

MakeRig = Callable[..., Rig]


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    with ModelServer.start() as server:
        yield Twins(tmp_path_factory.mktemp("twins"), server)


@pytest.fixture
def make_rig(tmp_path: Path, model_server: ModelServer) -> MakeRig:
    """`make_rig(rows, **spec)`: a rig in the test's folder, its model slow by `latency_ms`."""

    def make(rows: pl.DataFrame, *, latency_ms: float = 200, rules: tuple[Any, ...] = (), **spec: Any) -> Rig:
        model_server.script({"latency_ms": latency_ms, "rules": list(rules)})
        return Rig(tmp_path / "rig", model_server, rows, spec_of(**spec))

    return make
