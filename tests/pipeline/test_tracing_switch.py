"""LangSmith's tracing in a worker is off, unless a variable of the user's switches it on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import langsmith.utils
import pytest

from pipeline.worker import _trace_only_if_switched_on
from stages.models.callbacks import TRACING


@pytest.fixture(autouse=True)
def _as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(os.environ)
    for name in TRACING:
        monkeypatch.delenv(name, raising=False)
    langsmith.utils.get_env_var.cache_clear()  # type: ignore[attr-defined]
    yield
    for name in TRACING:
        os.environ.pop(name, None)
    os.environ.update(before)
    langsmith.utils.get_env_var.cache_clear()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TRACING)
def test_each_variable_of_langsmith_switches_it_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "true")
    _trace_only_if_switched_on()
    assert langsmith.utils.tracing_is_enabled() is True


def test_without_any_it_is_off() -> None:
    _trace_only_if_switched_on()
    assert langsmith.utils.tracing_is_enabled() is False
    assert [os.environ.get(name) for name in TRACING] == ["false", None, None, None]
