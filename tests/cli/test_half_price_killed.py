"""`--tier batch`, whole commands killed at random instants: each request is submitted once, and each row answered."""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.half_price import a_project, published, quick_jobs
from tests.harness.model_server import ModelServer

_ROWS, _CALLS = 24, 5  # a row, in three waves
_MODELS = ("openai:gpt-5-mini", "anthropic:claude-haiku-4-5", "google_genai:gemini-2.5-flash")


def killed_run(folder: Path, server: ModelServer, model: str, rng: random.Random, most: int) -> int:
    """Run a graph of three steps, its command killed up to so many times. Returns how often it was."""
    project = a_project(folder, server, rows=_ROWS, days=3, graph="steps", model=model)
    kills = 0
    while kills < most:
        with project.start("run", "--tier", "batch", "--json", "--name", "r") as command:
            try:
                command.process.wait(rng.uniform(2.0, 11.0))
                break
            except subprocess.TimeoutExpired:
                command.end(signal.SIGKILL)
                kills += 1
    done = project.tandem("run", "--tier", "batch", "--json", "--name", "r", timeout_s=400).ok().json
    shown = project.tandem("runs", "show", "r", "--json").ok().json
    assert done["state"] == shown["state"] == "completed"
    assert len(published(project)) == len({row[0] for row in published(project)}) == _ROWS
    assert shown["usage"]["calls"] == _ROWS * _CALLS
    return kills


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.prove)])
@pytest.mark.timeout(3_000)
def test_a_command_that_is_killed_at_random_submits_each_request_once(
    tmp_path: Path, model_server: ModelServer, kills: int
) -> None:
    """By the server's own count of requests, whatever the provider; values are those of the journal's one answer."""
    quick_jobs(model_server, queue_s=0.5, run_s=1.0)
    rng, done, runs = random.Random(22), 0, 0
    while done < kills:
        done += killed_run(tmp_path / str(runs), model_server, _MODELS[runs % 3], rng, min(8, kills - done))
        runs += 1
        counts = model_server.jobs()
        print(f"{done} kills in {runs} runs: {counts['submitted']} submitted, {counts['most_submitted']} times at most")
        assert counts["most_submitted"] == 1
        assert counts["submitted"] == counts["custom_ids"] == runs * _ROWS * _CALLS
