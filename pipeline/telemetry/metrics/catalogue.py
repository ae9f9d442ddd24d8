"""The metrics of Tandem: their names, labels and meaning, and how the figures of several processes become one.

Labels have few values by construction: outcomes, kinds, models and stages of specs. Never a row, a partition, a run or
a message.
"""

from dataclasses import dataclass
from typing import Literal

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0)
ROW_OUTCOMES = ("ok", "rejected", "filtered", "pending", "unfinished")
HITS = ("rows_reused", "calls_reused", "rows_shared")
DEATHS = ("killed", "out_of_memory", "crashed", "exited", "stuck", "not_started")


@dataclass(frozen=True)
class Metric:
    """One metric. A counter's name ends with `_total`. `combine`: how the gauges of processes become one. `values`: the
    label sets that exist with 0 from the start; ((),) where there are no labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    combine: Literal["sum", "max", "min"] = "sum"
    values: tuple[tuple[str, ...], ...] = ()


def _each(*values: str) -> tuple[tuple[str, ...], ...]:
    return tuple((value,) for value in values)


METRICS = (
    Metric(
        "tandem_rows_total", "counter", "Source rows of partitions that ended, by outcome, as in the run's report.",
        ("outcome",), values=_each(*ROW_OUTCOMES),
    ),
    Metric(
        "tandem_partitions_total", "counter", "Partitions that ended, by outcome, as the report.", ("outcome",),
        values=_each("published", "unchanged", "failed", "cancelled"),
    ),
    Metric(
        "tandem_stage_rows_total", "counter",
        "Rows with an outcome in a stage, from the journal or from its graph; counted again in each attempt.",
        ("stage",),
    ),
    Metric(
        "tandem_model_calls_total", "counter",
        "Requests to models: answered (paid), unknown (sent, may be billed), failed (not billed).",
        ("model", "tier", "outcome"),
    ),
    Metric(
        "tandem_tokens_total", "counter",
        "Tokens of answered requests; cache_read is a part of input, reasoning a part of output.", ("model", "kind"),
    ),
    Metric("tandem_cost_usd_total", "counter", "Cost of answered requests in USD, where known.", ("model", "tier")),
    Metric(
        "tandem_journal_hits_total", "counter", "What the journal saved in partitions that ended, as in the report.",
        ("kind",), values=_each(*HITS),
    ),
    Metric("tandem_calls_in_flight", "gauge", "Requests to models in flight.", values=((),)),
    Metric(
        "tandem_backlog_rows", "gauge", "Rows of open runs in batches that have not ended.", values=((),),
    ),
    Metric(
        "tandem_jobs", "gauge", "Provider batch jobs that are out, by state; ended: to be collected.", ("state",),
        values=_each("waiting", "queued", "running", "ended"),
    ),
    Metric(
        "tandem_limit_wait_seconds", "histogram", "Seconds that a request waited for its turn under limits.",
        values=((),),
    ),
    Metric(
        "tandem_limit_rate", "gauge",
        "Requests a second that the most limited model may send now; +Inf where no rate is limited.",
    ),
    Metric(
        "tandem_limit_rate_wanted", "gauge",
        "Requests a second that the spec allows for that model; +Inf where it sets no limit.",
    ),
    Metric(
        "tandem_breaker_open", "gauge", "1 while a provider appears to be down, in any process.", combine="max",
        values=((),),
    ),
    Metric(
        "tandem_flush_lag_seconds", "gauge",
        "Seconds that answers have been on their way to the store, the longest of the last second.", combine="max",
        values=((),),
    ),
    Metric("tandem_publish_seconds", "histogram", "Seconds that publishing a partition took.", values=((),)),
    Metric(
        "tandem_batches", "gauge", "Batches at work, and those that wait until a time for a limit or an outage.",
        ("state",), values=_each("running", "waiting"),
    ),
    Metric(
        "tandem_batch_attempts_total", "counter", "Attempts of batches that ended, by their result.", ("result",),
        values=_each("done", "waiting", "handed_back", "short", "rows", "failed"),
    ),
    Metric(
        "tandem_reviews_pending", "gauge", "Questions to people that partitions wait for.", values=((),),
    ),
    Metric(
        "tandem_budget_used_ratio", "gauge",
        "Share of its budget that a run has used: the highest of those at work; 1 while one is paused.",
        combine="max",
    ),
    Metric("tandem_processes", "gauge", "Worker processes that work.", values=((),)),
    Metric(
        "tandem_process_deaths_total", "counter", "Ends of worker processes that were not to end.", ("cause",),
        values=_each(*DEATHS),
    ),
    Metric(
        "tandem_schedule_actions_missed", "gauge",
        "Actions of schedules of the namespace that were never begun, as their catch-up window was over.",
        combine="max", values=((),),
    ),
)  # fmt: skip
BY_NAME = {metric.name: metric for metric in METRICS}
