"""Fixtures that every test may use. Under pytest-xdist each worker has servers of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as properties

from pipeline import settings
from tests.harness.model_server import ModelServer
from tests.harness.servers import SeaweedS3, TemporalServer

# How long an example takes says how busy the machine is, and nothing of us.
properties.register_profile("tandem", deadline=None, suppress_health_check=[HealthCheck.too_slow])
properties.load_profile("tandem")
# Whole commands, servers that die, pages that run: what is left out while one works on something else.
_SLOW = ("cli", "faults", "formats", "examples", "docs", "pipeline/workflows", "pipeline/embedded", "test_readme.py")


# Of whole commands those that CI runs, too: a run from its start to its end, killed, carried on, with code that moves.
_IN_CI = ("test_run.py", "test_code_moved.py", "test_unruly.py", "test_processes.py", "test_bad_input.py",
          "test_control.py", "test_backfill.py", "test_kills.py", "test_simulation.py", "test_checker.py")  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of some folders as slow, which `make quick` leaves out, and most of those that run commands as
    such, which `make commands` runs."""
    tests = config.rootpath / "tests"
    slow = tuple(str(tests / name) for name in _SLOW)
    commands = tuple(str(tests / name) for name in ("cli", "examples", "faults", "formats", "test_readme.py"))
    for item in items:
        path = str(item.path)
        if path.startswith(slow):
            item.add_marker(pytest.mark.slow)
        if path.startswith(commands) and item.path.name not in _IN_CI:
            item.add_marker(pytest.mark.commands)


@pytest.fixture(autouse=True)
def _settings_of_this_test() -> None:
    """A process reads its settings once; a test that sets variables is a process of its own."""
    settings.current.cache_clear()


@pytest.fixture(scope="session")
def model_server_process() -> Iterator[ModelServer]:
    """One model server for the session; tests take `model_server`."""
    with ModelServer.start() as server:
        yield server


@pytest.fixture
def model_server(model_server_process: ModelServer) -> ModelServer:
    """The session's model server without latency, script or records."""
    model_server_process.reset()
    return model_server_process


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedS3]:
    """The session's S3 server. A test that kills one starts its own; others take a bucket of their own."""
    with SeaweedS3.start(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporalServer]:
    """The session's Temporal server. A test that kills one starts its own."""
    with TemporalServer.start(tmp_path_factory.mktemp("temporal")) as server:
        yield server
