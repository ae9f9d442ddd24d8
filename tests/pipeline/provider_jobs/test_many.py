"""Memory does not grow with the number of requests, nor with that of jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.model_server import ModelServer
from tests.harness.processes import ROOT

Found = dict[str, Any]


def asked(folder: Path, server: ModelServer, requests: int, a_job: int) -> Found:
    numbers = [str(requests), str(a_job)]
    command = [sys.executable, "-m", "tests.pipeline.provider_jobs.many", str(folder), server.base_url, *numbers]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=3_000)
    found: Found = json.loads(done.stdout)
    print(found)
    return found


@pytest.mark.slow
def test_thousands_of_requests_in_several_jobs_are_all_answered(model_server: ModelServer, tmp_path: Path) -> None:
    """Each once, in as few jobs as the limit allows."""
    found = asked(tmp_path, model_server, 3_000, 800)
    assert (found["jobs"], found["answered"]) == (4, 3_000)
    counts = model_server.jobs()
    assert (counts["submitted"], counts["most_submitted"], len(counts["jobs"])) == (3_000, 1, 4)


@pytest.mark.prove
@pytest.mark.timeout(3_000)
def test_200_000_requests_in_jobs_of_50_000_need_flat_memory(model_server: ModelServer, tmp_path: Path) -> None:
    """About 1 KB each: the second job and the fourth need no more memory than the first."""
    found = asked(tmp_path, model_server, 200_000, 50_000)
    assert (found["jobs"], found["answered"]) == (4, 200_000)
    before, *peaks = found["peaks_mb"]
    assert peaks[-1] - before < 120
    assert peaks[-1] - peaks[1] < 40  # of the jobs after the first
