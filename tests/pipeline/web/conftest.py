"""Sinks that earlier versions wrote, unpacked once for each test process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.formats.kept import Kept, unpack


@pytest.fixture(scope="session")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Four days of tickets: several generations, rejects, a tombstone, questions."""
    return unpack("tickets", tmp_path_factory.mktemp("tickets"))


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Reviews from CSV by month, two of whose stages have no model."""
    return unpack("reviews", tmp_path_factory.mktemp("reviews"))


@pytest.fixture
def sink(tickets: Kept) -> Path:
    return tickets.sink
