"""What was paid: a day, a run, a model, a row; and what was not paid again."""

from collections import defaultdict
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from pipeline.runs.charts import Chart, chart
from pipeline.runs.requests import load_spec_of
from pipeline.runs.statistics import CostlyRow, ModelUsage, RunStatistics
from pipeline.web.facts.runs import DaySpend, RunLine, per_day
from pipeline.web.rendering import number, usd
from pipeline.web.site import Shown, Site
from pipeline.web.views.common import dataset_of, run_statistics, runs, show, site_of
from schemas.errors import TandemError

_DAYS = 60
_TOP = 20


@dataclass(frozen=True)
class ModelSpend:
    """The usage of a model and tier, and the stages whose models it is among."""

    usage: ModelUsage
    stages: str


def spend(request: Request) -> Response:
    site, dataset = site_of(request), dataset_of(request)
    lines = runs(site, dataset)
    days = per_day(lines)
    told = run_statistics(site, dataset)
    models = _models(told)
    broken_down = sum(one.usage.cost_usd for one in models)
    total = sum(day.cost_usd for day in days)
    return show(
        request, "spend", "spend", dataset, days=days, figures=_figures(days), chart=_chart(days[:_DAYS]),
        models=[ModelSpend(one.usage, _stages(site, dataset, lines, one.usage.model)) for one in models],
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
    ]


def _chart(days: list[DaySpend]) -> Chart | None:
    if not any(day.cost_usd for day in days):
        return None
    ordered = list(reversed(days))
    values = [(day.cost_usd, f"{day.day}: {usd(day.cost_usd)} USD, {day.calls:,} calls") for day in ordered]
    labels = [(0.0, str(ordered[0].day))] + ([(1.0, str(ordered[-1].day))] if len(ordered) > 1 else [])
    legend = "USD paid by runs that began on a day (UTC); days without runs are left out"
    return chart("Spend per day", values, labels, kind="money", unit="USD", legend=legend)


def _models(told: dict[str, RunStatistics]) -> list[ModelSpend]:
    sums: dict[tuple[str, str], list[ModelUsage]] = defaultdict(list)
    for one in told.values():
        for usage in one.models:
            sums[usage.model, usage.tier].append(usage)
    found = [
        ModelSpend(
            ModelUsage(
                model=model,
                tier=tier,
                calls=sum(one.calls for one in many),
                input_tokens=sum(one.input_tokens for one in many),
                output_tokens=sum(one.output_tokens for one in many),
                cost_usd=sum(one.cost_usd for one in many),
            ),
            "",
        )
        for (model, tier), many in sums.items()
    ]
    return sorted(found, key=lambda one: -one.usage.cost_usd)


def _stages(site: Site, dataset: Shown, lines: list[RunLine], model: str) -> str:
    """Return the stages of the latest run's spec whose models this one is among."""
    if not lines:
        return ""
    try:
        spec = site.recently.get(
            ("spec", dataset.slug, lines[0].name), lambda: load_spec_of(dataset.store, lines[0].request.spec)
        )
    except TandemError:
        return ""
    named = {
        stage.name: {one.name for choice in stage.model.values() for one in (choice, *choice.others)}
        for stage in spec.stages
    }
    return ", ".join(stage for stage, names in named.items() if model in names)


def _dearest(told: dict[str, RunStatistics]) -> list[tuple[str, CostlyRow]]:
    rows = [(run, row) for run, one in told.items() for row in one.dearest]
    return sorted(rows, key=lambda pair: -pair[1].cost_usd)[:_TOP]
