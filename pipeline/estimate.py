"""What a run would cost, before it costs anything: from a sample of rendered prompts, as ranges."""

from dataclasses import dataclass

import polars as pl

from pipeline.planning import Decision
from pipeline.plans import Job
from schemas.errors import TandemError
from stages.contract import Answered, GraphStage
from stages.prices import pricer

_SAMPLE = 30
_BYTES_PER_TOKEN = 4
_OUTPUT = (20, 300)


@dataclass(frozen=True)
class Estimate:
    """[low, high] of each. Money is None where a model's price is not known."""

    rows: int
    calls: tuple[int, int]
    input_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    cost_usd: tuple[float, float] | None


def estimate(job: Job, decided: list[Decision]) -> Estimate:
    """For the partitions that would run. Low: every row is in the journal; high: none is, and none repeats."""
    rows = sum(d.rows for d in decided if d.run)
    stages = [stage for stage in job.stages if isinstance(stage, GraphStage) and stage.spec.model]
    calls = rows * len(stages)
    sample = _sample(job, decided) if rows and stages else None
    given = got = 0
    cost: float | None = 0.0
    for stage in stages:
        tokens = _input_tokens(stage, sample)
        output = min(_OUTPUT[1], int(stage.spec.params.get("max_tokens", _OUTPUT[1])))
        given += rows * tokens
        got += rows * output
        for choice in list(stage.spec.model.values())[:1]:
            price = pricer(choice.name, job.spec.prices)({"input": tokens, "output": output})
            cost = None if price is None or cost is None else cost + rows * price
    return Estimate(rows, (0, calls), (0, given), (0, got), None if cost is None else (0.0, round(cost, 4)))


def _sample(job: Job, decided: list[Decision]) -> pl.DataFrame:
    first = next(d for d in decided if d.run and d.rows)
    entry = job.snapshot.entry(first.partition)
    ranges = [entry.ranges[0].model_copy(update={"rows": min(entry.ranges[0].rows, _SAMPLE)})]
    return job.snapshot.read(first.partition, ranges)


def _input_tokens(stage: GraphStage, sample: pl.DataFrame | None) -> int:
    """The mean of the sample's rendered prompts; nothing is known of a stage that reads other stages' columns."""
    if sample is None or not set(stage.reads) <= set(sample.columns):
        return 200
    sizes = []
    for row in sample.select(stage.reads).iter_rows(named=True):
        try:
            state = stage.prepare(row)
        except TandemError:
            continue
        if not isinstance(state, Answered):
            sizes.append(sum(len(str(m.content).encode()) for m in state.get("messages", [])) or len(str(state)))
    return round(sum(sizes) / len(sizes) / _BYTES_PER_TOKEN) + 60 if sizes else 200
