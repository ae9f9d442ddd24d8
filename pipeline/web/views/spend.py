"""What was paid: a day, a run, a model, a row; and what was not paid again."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from pipeline.runs.html.charts import Chart, chart
from pipeline.runs.statistics.document import CostlyRow, ModelUsage, RunStatistics
from pipeline.web.facts.runs import DaySpend, per_day
from pipeline.web.rendering import number, usd
from pipeline.web.views.common import dataset_of, run_statistics, runs, show, site_of

_DAYS = 60
_TOP = 20


@dataclass(frozen=True)
class Spend:
    """The usage of a model and tier, or of a stage: `others` are the stages of the model, the models of the stage."""

    name: str
    tier: str
    others: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float

    @classmethod
    def of(cls, name: str, tier: str, many: list[ModelUsage], others: Iterable[str]) -> "Spend":
        return cls(
            name,
            tier,
            ", ".join(sorted({other for other in others if other})),
            sum(one.calls for one in many),
            sum(one.input_tokens for one in many),
            sum(one.output_tokens for one in many),
            sum(one.cost_usd for one in many),
        )


def spend(request: Request) -> Response:
    site, dataset = site_of(request), dataset_of(request)
    lines = runs(site, dataset)
    days = per_day(lines)
    told = run_statistics(site, dataset)
    used = [usage for one in told.values() for usage in one.models]
    models = _by_model(used)
    broken_down = sum(one.cost_usd for one in models)
    total = sum(day.cost_usd for day in days)
    return show(
        request, "spend", "spend", dataset, days=days, figures=_figures(days), chart=_chart(days[:_DAYS]),
        models=models, stages=_by_stage(used),
        rest=total - broken_down if total - broken_down > 1e-9 and models else 0.0, dearest=_dearest(told),
        runs=sorted((line for line in lines if line.cost_usd), key=lambda line: -line.cost_usd)[:_TOP],
    )  # fmt: skip


def _figures(days: list[DaySpend]) -> list[tuple[str, str]]:
    calls = sum(day.calls for day in days)
    cost = sum(day.cost_usd for day in days)
    return [
        ("paid, USD", usd(cost)),
        ("calls paid", number(calls)),
        ("a call, USD", usd(cost / calls if calls else 0.0)),
        ("tokens in", number(sum(day.input_tokens for day in days))),
        ("tokens out", number(sum(day.output_tokens for day in days))),
        ("rows not paid again", number(sum(day.rows_reused + day.rows_shared for day in days))),
        ("saved by the journal, about USD", usd(sum(day.saved_usd for day in days))),
        ("saved by providers' caches, USD", usd(sum(day.cache_saved_usd for day in days))),
        ("saved by batch jobs, USD", usd(sum(day.jobs_saved_usd for day in days))),
    ]


def _chart(days: list[DaySpend]) -> Chart | None:
    if not any(day.cost_usd for day in days):
        return None
    ordered = list(reversed(days))
    values = [(day.cost_usd, f"{day.day}: {usd(day.cost_usd)} USD, {day.calls:,} calls") for day in ordered]
    labels = [(0.0, str(ordered[0].day))] + ([(1.0, str(ordered[-1].day))] if len(ordered) > 1 else [])
    legend = "USD paid by runs that began on a day (UTC); days without runs are left out"
    return chart("Spend per day", values, labels, kind="money", unit="USD", legend=legend)


def _by_model(used: list[ModelUsage]) -> list[Spend]:
    groups: dict[tuple[str, str], list[ModelUsage]] = defaultdict(list)
    for one in used:
        groups[one.model, one.tier].append(one)
    found = [Spend.of(model, tier, many, (one.stage for one in many)) for (model, tier), many in groups.items()]
    return sorted(found, key=lambda one: -one.cost_usd)


def _by_stage(used: list[ModelUsage]) -> list[Spend]:
    """Return the spend of each stage; calls of earlier versions do not name theirs."""
    groups: dict[str, list[ModelUsage]] = defaultdict(list)
    for one in used:
        groups[one.stage].append(one)
    found = [Spend.of(stage, "", many, (one.model for one in many)) for stage, many in groups.items()]
    return sorted(found, key=lambda one: -one.cost_usd) if any(groups) else []


def _dearest(told: dict[str, RunStatistics]) -> list[tuple[str, CostlyRow]]:
    rows = [(run, row) for run, one in told.items() for row in one.dearest]
    return sorted(rows, key=lambda pair: -pair[1].cost_usd)[:_TOP]
