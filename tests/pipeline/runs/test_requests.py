"""A run's identity: what a request is about, not how fast or at what cost, and the same in every version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.runs.requests import request_digest
from schemas.plan import Selection
from schemas.spec.loading import spec_from_mapping

# As version 6e8043d computes it: a run that it began is joined by the same command.
RECORDED = "58315cb687cdcd9331432bf3d863092f"


def digest(stage: dict[str, Any] | None = None, **changed: Any) -> str:
    base = {"name": "s", "uses": "extract", "model": "offline:lexical", "prompt": "{{ text }}",
            "output": {"summary": "str"}}  # fmt: skip
    spec = {
        "name": "p",
        "source": {"path": "rows.parquet", "key": ["id"]},
        "stages": [base | (stage or {})],
        "sink": {"path": "out"},
    }
    return request_digest(spec_from_mapping(spec | changed, base=Path()), Selection())


def test_it_is_that_of_earlier_versions() -> None:
    assert digest() == RECORDED


@pytest.mark.parametrize(
    ("stage", "changed"),
    [
        ({"row_timeout": "1h"}, {}),
        ({}, {"limits": {"rows_in_flight": 3, "max_cost_usd": 1, "max_memory": "2GiB", "call_timeout": "5s"}}),
        ({}, {"sink": {"path": "out", "keep_generations": 3}}),
        ({}, {"prices": {"offline:lexical": {"input": 1, "output": 1}}}),
    ],
)
def test_speed_and_cost_are_no_part_of_it(stage: dict[str, Any], changed: dict[str, Any]) -> None:
    assert digest(stage, **changed) == RECORDED


@pytest.mark.parametrize(
    ("stage", "changed"),
    [
        ({"prompt": "Read {{ text }}"}, {}),
        ({"coerce": "strict"}, {}),
        ({}, {"sink": {"path": "elsewhere"}}),
        ({}, {"limits": {"batch_rows": 10}}),
    ],
)
def test_what_is_asked_and_where_it_goes_are(stage: dict[str, Any], changed: dict[str, Any]) -> None:
    assert digest(stage, **changed) != RECORDED
