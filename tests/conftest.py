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
_SLOW = (
    "cli", "faults", "formats", "examples", "docs", "pipeline/workflows", "pipeline/embedded",
    "pipeline/web/test_chromium.py", "infra/test_prometheus", "infra/test_alerts", "test_readme.py",
)  # fmt: skip


# Those that take a minute and more: most of an hour together, which CI leaves to `make commands`.
_LONG = (
    "runs_as_written[docs/how-to", "test_the_tutorial_runs_as_written",
    "test_a_schedule_from_apply_to_delete", "test_answers_one_by_one_and_by_a_file", "test_try_shows_each_step",
    "test_a_plan_that_was_written_down", "test_a_worker_that_is_drained",
    "test_memory_is_flat", "test_dev_works_for_what_is_detached", "test_successes_end_as_successes",
    "test_a_blocked_partition_says", "test_a_key_may_be_named_with_and_without", "test_two_facts_and_what_is_due",
    "test_a_run_pauses_at_its_budget_and_goes_on", "test_a_home_that_fills_up", "test_runs_that_are_not_there",
    "test_readers_see_whole_generations",
    "test_a_renamed_file_is_the_same_rows[delta]", "test_a_renamed_file_is_the_same_rows[iceberg]",
    "leaves_no_block_behind[delta]", "leaves_no_block_behind[iceberg]", "test_two_pipelines_read_each_others_journals",
    "test_a_named_partition_alone_is_pruned", "test_rows_put_before_others", "are_paid_for_once[1]",
    "test_a_change_that_stops_half_way", "test_a_killed_change_is_carried_on", "is_retired_to_finish_a_change",
    "is_refused_before_any_call[delta]", "is_refused_before_any_call[iceberg]",
    "test_every_command_that_works_serves_metrics", "keep_every_promise[7]", "keep_every_promise[8]",
    "keep_every_promise[9]",
    "test_a_run_that_is_killed_while_its_job_is_out", "test_a_row_that_asks_something_else_each_time_is_rejected_by",
    "test_nodes_that_are_activities_wait_for_jobs", "test_a_cancelled_run_keeps_what_its_job_has",
    "test_embeddings_go_by_jobs", "test_rows_that_may_have_ended_a_process_wait_for_jobs",
    "test_a_command_that_is_killed_at_random_submits", "test_a_job_that_does_not_fit_its_budget_is_submitted_in",
    "test_a_budget_that_is_set_while_a_job_is_out",
    "test_an_agent_takes_a_wave_a_turn_and_runs", "test_a_backfill_by_jobs_and_a_live_run_of_the_last",
    "test_very_many_requests_need_flat_memory",
    "with_the_command_that_does_it_for_no_call[delta]", "with_the_command_that_does_it_for_no_call[iceberg]",
    "test_a_worker_with_the_old_code_makes_no_plan", "test_a_run_is_watched_and_a_schedule_fires",
    "test_a_backfill_is_resumed_from_any_end", "test_a_model_that_moved_under_its_name",
    "test_s3_behind_a_bad_wire[a fifth 503]", "finds_planted_bugs[no flush in time]",
    "test_an_outage_is_waited_out_and_rejects_nothing", "test_three_workers_spend_a_third_and_then_the_rest[600]",
    "keep_every_promise[0]", "keep_every_promise[1]", "test_ended_before_any_of_its_changes[9]",
    "test_servers_that_cannot_be_reached", "test_backends_that_are_away", "test_a_watch_that_ends_first",
    "test_a_provider_that_never_answers", "test_workers_of_a_fleet_together_never_meet", "pays_nothing_twice[15]",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of some folders as slow, which `make quick` leaves out, and the longest of them as commands, which
    `make commands` runs."""
    slow = tuple(str(config.rootpath / "tests" / name) for name in _SLOW)
    for item in items:
        if str(item.path).startswith(slow):
            item.add_marker(pytest.mark.slow)
            if any(name in item.nodeid for name in _LONG):
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
