"""The sum over the processes of a command, whatever becomes of them, and labels that stay few."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.worker import WorkflowInterceptorClassInput

from pipeline.telemetry.metrics.address import Address
from pipeline.telemetry.metrics.catalogue import METRICS, SECONDS
from pipeline.telemetry.metrics.joint_gauges import BUDGET, CHARGED, RATE, SPENT, WANTED
from pipeline.telemetry.metrics.recorder import Gauge, Recorder
from pipeline.telemetry.metrics.totals import Totals
from pipeline.telemetry.metrics.workflow_figures import WorkflowFigures
from pipeline.workflows.live_figures import LISTENER
from schemas.errors import UsageError

ROWS = "tandem_stage_rows_total", (("stage", "s"),)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50), st.booleans()), max_size=40))
def test_counters_never_go_back_and_are_what_was_reported(steps: list[tuple[int, int, bool]]) -> None:
    """A step: a process counts some rows, and then reports, or is killed and replaced by a new one."""
    totals, processes = Totals(), {number: Recorder() for number in range(4)}
    reported, last = 0.0, 0.0
    unreported = dict.fromkeys(processes, 0)
    for number, rows, killed in steps:
        processes[number].rows_done("s", rows)
        unreported[number] += rows
        if killed:
            totals.forget(number)
            processes[number], unreported[number] = Recorder(), 0
        else:
            totals.add(number, processes[number].report())
            reported, unreported[number] = reported + unreported[number], 0
        now = totals.read().counts.get(ROWS, 0)
        assert now == reported >= last
        last = now


def test_what_has_no_value_yet_is_there_with_zero() -> None:
    reading = Totals().read()
    names = {name for found in (reading.counts, reading.gauges, reading.observed) for name, _ in found}
    of_labels = {metric.name for metric in METRICS if not metric.values}
    assert names >= {metric.name for metric in METRICS} - of_labels
    assert of_labels - names == {
        "tandem_model_calls_total", "tandem_tokens_total", "tandem_cost_usd_total", "tandem_stage_rows_total",
        "tandem_budget_used_ratio",
    }  # fmt: skip


def test_a_dead_process_has_no_calls_in_flight() -> None:
    totals = Totals()
    for member, calls in (("one", 3), ("two", 4)):
        totals.add(member, {"counts": [], "observed": [], "gauges": [["tandem_calls_in_flight", {}, calls]]})
    assert totals.read().gauges["tandem_calls_in_flight", ()] == 7
    totals.forget("one")
    assert totals.read().gauges["tandem_calls_in_flight", ()] == 4


def test_values_beyond_the_first_hundreds_share_a_label() -> None:
    recorder = Recorder()
    for number in range(1_000):
        recorder.rows_done(f"stage{number}", 1)
    counts = recorder.report()["counts"]
    assert len(counts) == 201
    assert next(amount for _, labels, amount in counts if labels == {"stage": "other"}) == 800
    recorder.rows_done("s" * 10_000, 1)
    assert {len(labels["stage"]) for _, labels, _ in recorder.report()["counts"]} == {len("other")}


def test_each_value_is_in_the_bucket_of_the_next_bound() -> None:
    recorder = Recorder()
    values = [0.0, SECONDS[0], 0.3, SECONDS[-1], SECONDS[-1] * 2]
    for value in values:
        recorder.limit_waited(value)
    ((_, _, buckets),) = recorder.report()["observed"]
    assert [at for at, number in enumerate(buckets[:-1]) for _ in range(int(number))] == [0, 0, 6, 14, 15]
    assert buckets[-1] == sum(values)


def parts(*found: Gauge) -> dict[str, float]:
    totals = Totals()
    for number, gauge in enumerate(found):
        totals.add(number, {"counts": [], "observed": [], "gauges": [gauge]})
    return {name: value for (name, _), value in totals.read().gauges.items()}


def test_the_rate_of_a_command_is_the_sum_of_its_processes_for_the_slowest_limit() -> None:
    assert parts()["tandem_limit_rate"] == inf
    found = parts(
        (RATE, {"limit": "a"}, 2.0), (RATE, {"limit": "a"}, 3.0), (WANTED, {"limit": "a"}, 9.0),
        (RATE, {"limit": "b"}, 7.0), (WANTED, {"limit": "b"}, 8.0),
    )  # fmt: skip
    assert (found["tandem_limit_rate"], found["tandem_limit_rate_wanted"]) == (5.0, 9.0)
    assert not any(name.startswith("_") for name in found)


def test_the_budget_is_used_by_all_processes_and_by_those_that_ended() -> None:
    found = parts(
        (BUDGET, {"run": "a"}, 100), (BUDGET, {"run": "a"}, 100), (CHARGED, {"run": "a"}, 30),
        (SPENT, {"run": "a"}, 20), (SPENT, {"run": "a"}, 10), (BUDGET, {"run": "b"}, 100), (SPENT, {"run": "b"}, 10),
    )  # fmt: skip
    assert found["tandem_budget_used_ratio"] == pytest.approx(0.6)
    assert "tandem_budget_used_ratio" not in parts()


@pytest.mark.parametrize("text", ["", "9464", ":9464", "localhost", "host:", "host:x", "host:70000", "::1:80", "a:b:1"])
def test_an_address_that_is_none_is_refused_by_its_setting(text: str) -> None:
    with pytest.raises(UsageError, match="--metrics"):
        Address.parse(text, setting="--metrics")


def test_addresses_of_both_protocols() -> None:
    assert Address.parse("127.0.0.1:0", setting="x") == Address("127.0.0.1", 0)
    assert str(Address.parse("[::1]:9464", setting="x")) == "[::1]:9464"


def test_provider_jobs_are_counted_by_state_over_all_runs_and_pools() -> None:
    recorder, worker = Recorder(), WorkflowInterceptorClassInput(unsafe_extern_functions={})
    WorkflowFigures(recorder).workflow_interceptor_class(worker)
    hear = worker.unsafe_extern_functions[LISTENER]
    for state, number in (("waiting", 1), ("running", 2)):
        hear(f"jobs_{state}", ("run-1 pool-1", number))
    hear("jobs_running", ("run-2 pool-1", 3))

    def jobs() -> dict[str, float]:
        return {labels["state"]: value for name, labels, value in recorder.report()["gauges"] if name == "tandem_jobs"}

    assert jobs() == {"waiting": 1, "queued": 0, "running": 5, "ended": 0}
    hear("jobs_running", ("run-1 pool-1", 0))
    assert jobs()["running"] == 3


def test_each_metric_is_described_once() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len({*names})
