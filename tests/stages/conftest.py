"""Fixtures of the tests of stages."""

from collections.abc import AsyncIterator, Iterator

import pytest

from stages.models import calls
from stages.models.wires import transport
from stages.models.wires.http import close_session
from tests.harness.model_server import ModelServer


@pytest.fixture
async def server(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModelServer]:
    """The model server as the OpenAI endpoint of this process, with short backoffs."""
    for name, value in model_server.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(calls, "BACKOFF_S", 0.01)
    yield model_server
    await close_session()


@pytest.fixture(autouse=True)
def _forget_endpoints() -> Iterator[None]:
    yield
    transport._dialects.clear()
