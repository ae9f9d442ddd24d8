"""A run's identity is what it computes, not how fast or with how much memory."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.runs.requests import request_digest
from schemas.plan import Selection
from schemas.spec.loading import spec_from_mapping

SPEC: dict[str, Any] = {
    "name": "tickets",
    "source": {"path": "rows.csv"},
    "stages": [
        {"name": "one", "uses": "extract", "model": "offline:lexical", "prompt": "{{ a }}", "output": {"b": "str"}}
    ],
    "sink": {"path": "out"},
}


def digest_of(**limits: Any) -> str:
    return request_digest(spec_from_mapping({**SPEC, "limits": limits}, base=Path()), Selection())


@pytest.mark.parametrize("limits", [{"max_memory": "2GiB"}, {"rows_in_flight": 3}, {"call_timeout": "5s"}])
def test_limits_on_the_work_leave_a_run_the_same(limits: dict[str, Any]) -> None:
    assert digest_of(**limits) == digest_of()


def test_other_limits_make_another_run() -> None:
    assert digest_of(max_reject_rate=1) != digest_of()
