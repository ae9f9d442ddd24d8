"""`--tier batch` on Bedrock: jobs from a bucket, of a hundred calls or more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.half_price import a_project, quick_jobs
from tests.cli.support import Project
from tests.harness.model_server import ModelServer
from tests.harness.servers import SeaweedS3

BUCKET, NAME = "half-price-on-bedrock", "bedrock_converse:us.anthropic.claude-haiku-4-5-20251001-v1:0"
PLACE = {"batch_role": "arn:aws:iam::123456789012:role/batch", "batch_output": f"s3://{BUCKET}/jobs"}


def on_bedrock(folder: Path, server: ModelServer, seaweed: SeaweedS3, params: dict[str, Any], rows: int) -> Project:
    """A pipeline of one call a row, whose sink is a folder, with the model server as Bedrock."""
    server.use_s3(seaweed.endpoint, seaweed.bucket(BUCKET), seaweed.env())
    quick_jobs(server)
    project = a_project(folder, server, rows=rows, days=2, model={"name": NAME, "params": params})
    root = server.base_url.removesuffix("/v1")
    project.env |= {**seaweed.env(), "AWS_ENDPOINT_URL_BEDROCK": root, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": root}
    return project


@pytest.fixture(autouse=True)
def _no_bucket_afterwards(model_server: ModelServer) -> Any:
    yield
    model_server.use_s3("", "", {})


@pytest.mark.slow
def test_a_run_is_answered_by_a_job_and_its_bucket_is_left_empty(
    tmp_path: Path, model_server: ModelServer, seaweed: SeaweedS3
) -> None:
    """At half the price."""
    project = on_bedrock(tmp_path / "p", model_server, seaweed, PLACE, rows=120)
    done = project.tandem("run", "--tier", "batch", "--json", timeout_s=240).ok().json
    jobs = model_server.jobs()
    assert ([job["requests"] for job in jobs["jobs"]], jobs["most_submitted"], jobs["kept"]) == ([120], 1, [])
    assert done["usage"]["by_tier"] == {"batch": {"calls": 120, "cost_usd": done["usage"]["cost_usd"]}}
    assert done["usage"]["saved_usd"]["batch"] == pytest.approx(done["usage"]["cost_usd"], abs=2e-6)


@pytest.mark.prove
def test_too_few_calls_for_a_job_stop_a_run_and_are_asked_live_by_the_same_command_at_another_tier(
    tmp_path: Path, model_server: ModelServer, seaweed: SeaweedS3
) -> None:
    project = on_bedrock(tmp_path / "p", model_server, seaweed, PLACE, rows=7)
    stopped = project.tandem("run", "--tier", "batch", "--name", "r", timeout_s=240)
    assert stopped.code != 0
    assert "7 calls are left, and the provider takes no job with fewer than 100" in stopped.out
    assert "Traceback" not in stopped.err
    assert model_server.jobs()["jobs"] == []
    done = project.tandem("run", "--json", timeout_s=240).ok().json
    assert (done["rows"]["ok"], list(done["usage"]["by_tier"])) == (7, ["standard"])
