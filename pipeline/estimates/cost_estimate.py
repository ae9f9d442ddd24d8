"""Estimate of a run: calls as counted; tokens, money and time per call from earlier calls, else from the rendered
prompts and the declared output. The ranges should contain the actual values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

import orjson

from pipeline.estimates.call_count import CallCount, StageCount
from pipeline.journal.call_stats import CallStats, Range, around
from pipeline.planning.job import Job
from schemas.spec.fields import OutputField, json_schema
from schemas.spec.sections import Limits
from schemas.spec.tools import names_in
from schemas.tier import TIERS, Tier
from stages.limits.budget import DEFAULT_CAP, MOST_SEARCHES, SEARCH_TOKENS, cap_in
from stages.limits.prices import WEB_SEARCHES, pricer
from stages.models.settings.choice import models_of
from stages.models.settings.parameters import default_cap
from stages.models.settings.tiers import effective_tier

_BYTES_A_TOKEN = (2.5, 6.0)  # most text has 3 to 5
_ENVELOPE = 50  # tokens of roles and of a schema's frame
_UNSEEN_INPUT = (20.0, 2_000.0)  # a prompt that is not known yet
_CALL_S = Range(0.2, 20.0)
_START_S = Range(1.0, 10.0)
_WORDS = (2, 150)  # tokens of a text
_SHORT = (1, 15)  # of a number, a date, a label
_ITEMS = (0, 10)
_UNTYPED = (1, 500)
_REASONERS = re.compile(r"(?:^|[:/])(?:o\d|gpt-5|deepseek-r)|reason|think", re.I)
_REASONING_TOKENS = 4_000
_LEAST_JOB_S = 60.0  # of a provider job


@dataclass(frozen=True)
class Estimate:
    """[low, high] of each. Money is None where a model's price is not known. `tiers`: money and time by price tier, of
    those that a model has."""

    rows: int
    calls: tuple[int, int]
    input_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    cost_usd: tuple[float, float] | None
    seconds: tuple[float, float]
    tiers: Mapping[Tier, "TierEstimate"] = field(default_factory=dict)


@dataclass(frozen=True)
class TierEstimate:
    """USD and seconds of a run at one price tier."""

    cost_usd: tuple[float, float] | None
    seconds: tuple[float, float]


@dataclass(frozen=True)
class PerCall:
    """Tokens, time and web searches of a stage's mean call."""

    input: Range
    output: Range
    seconds: Range
    searches: Range


def estimate(job: Job, found: CallCount, history: Mapping[str, CallStats] | None = None) -> Estimate:
    """Estimate the partitions that would run. `history`: earlier calls by stage (`pipeline.journal.call_stats`)."""
    stages = [(count, per_call(count, (history or {}).get(count.stage.name))) for count in found.stages]
    inputs = _summed([(count.calls, each.input) for count, each in stages])
    outputs = _summed([(count.calls, each.output) for count, each in stages])
    live = _seconds(job.spec.limits, found, stages, inputs.low + outputs.low, inputs.high + outputs.high)
    waits = _seconds_of_jobs(job.spec.limits, stages)
    tiers = {tier: TierEstimate(_cost(job, stages, tier), waits if tier == "batch" else live) for tier in TIERS}
    by_jobs = any(tier == "batch" for count, _ in stages for tier in _tiers_of(job, count, None))
    return Estimate(
        found.rows,
        found.calls,
        (int(inputs.low), ceil(inputs.high)),
        (int(outputs.low), ceil(outputs.high)),
        _cost(job, stages, None),
        waits if by_jobs else live,
        {tier: each for tier, each in tiers.items() if _is_had(job, stages, tier)},
    )


def _summed(parts: list[tuple[tuple[int, int], Range]]) -> Range:
    return Range(sum(n[0] * each.low for n, each in parts), sum(n[1] * each.high for n, each in parts))


# One call ----------------------------------------------------------------------------------------------------------


def per_call(count: StageCount, before: CallStats | None) -> PerCall:
    """Estimate from earlier calls of this stage; of an altered stage, answers and time of its model's; else by size."""
    calls, searches = max(1, count.calls[1]), Range(0, _most_searches(count))
    if before is None:
        return PerCall(_read(count), _written(count), _CALL_S, searches)
    seconds = around(before.seconds, calls) if before.seconds else _CALL_S
    if before.alike:
        searches = around(before.searches, calls)
        times = Range(seconds.low, 2 * seconds.high)
        return PerCall(around(before.input, calls), around(before.output, calls), times, searches)
    output, declared = around(before.output, calls), _written(count)
    written = Range(min(output.low / 2, declared.high), min(2 * output.high, _most(count)))
    return PerCall(_read(count), written, Range(seconds.low / 2, 2 * seconds.high), searches)


def _read(count: StageCount) -> Range:
    """Estimate input tokens around the mean of the rendered prompts, with the schema that is sent with them, and what
    web searches may find."""
    found = _most_searches(count) * SEARCH_TOKENS
    if not count.measured:
        return Range(_UNSEEN_INPUT[0], _UNSEEN_INPUT[1] + found)
    mean = count.prompt_bytes / count.measured
    schema = len(orjson.dumps(json_schema(count.stage.fields))) if count.stage.fields else 0
    dense, sparse = _BYTES_A_TOKEN
    return Range(mean / sparse, (mean + schema) / dense + _ENVELOPE + found)


def _most_searches(count: StageCount) -> int:
    """Return the most searches of the web that a call may make."""
    spec = count.stage.spec
    if not names_in(spec.tools, "provider"):
        return 0
    params = ({**spec.params, **choice.params} for choice in models_of(spec))
    return max((int(one.get("max_tool_calls") or MOST_SEARCHES) for one in params), default=0)


def _written(count: StageCount) -> Range:
    """Estimate output tokens by the declared output; a reasoning model may add reasoning."""
    spec = count.stage.spec
    low, high = _fields(count.stage.fields) if count.stage.fields else _UNTYPED
    if any(_REASONERS.search(choice.name) or "reasoning_effort" in choice.params for choice in models_of(spec)):
        high += _REASONING_TOKENS
    most = _most(count)
    return Range(min(low, most), min(high, most))


def _most(count: StageCount) -> float:
    spec = count.stage.spec
    caps = [cap_in({**spec.params, **choice.params}) or default_cap(choice, spec.params) for choice in models_of(spec)]
    return float(max(caps, default=DEFAULT_CAP))


def _fields(fields: Mapping[str, OutputField]) -> tuple[int, int]:
    sizes = [_size(field) for field in fields.values()]
    named = [len(name) // 3 + 6 for name in fields]
    return sum(low for low, _ in sizes) + len(sizes), sum(high for _, high in sizes) + sum(named) + 4


def _size(field: OutputField) -> tuple[int, int]:
    if field.type == "fields":
        return _fields(field.fields or {})
    if field.type == "list" and field.items is not None:
        low, high = _size(field.items)
        return low * _ITEMS[0] + 1, (high + 2) * _ITEMS[1]
    if field.type == "str":
        return 1, max(_WORDS[1], (field.max_length or 0) // 2)
    return _SHORT


# Money and time ----------------------------------------------------------------------------------------------------


def _tiers_of(job: Job, count: StageCount, tier: Tier | None) -> list[Tier]:
    """Return the tier at which each model of a stage is asked; `tier`: of all, None for that of each in the spec."""
    stage = count.stage.spec
    return [effective_tier(choice, stage, job.spec.limits, tier) for choice in models_of(stage)]


def _is_had(job: Job, stages: list[tuple[StageCount, PerCall]], tier: Tier) -> bool:
    """True if a model that is asked has the tier; the standard one if any is paid."""
    names = [choice.name for count, _ in stages if count.calls[1] for choice in models_of(count.stage.spec)]
    if all(name.startswith("offline:") for name in names):
        return False
    return any(tier in _tiers_of(job, count, tier) for count, _ in stages if count.calls[1])


def _seconds_of_jobs(limits: Limits, stages: list[tuple[StageCount, PerCall]]) -> tuple[float, float]:
    """Estimate the time of provider jobs: each step that a row takes waits for one."""
    asking = [count.stage.calls for count, _ in stages if count.calls[1]]
    least = sum(max(1, fewest) for fewest, _ in asking)
    most = sum(limits.max_waves if many is None else max(1, many) for _, many in asking)
    deadline_s = limits.deadline.total_seconds()
    return _LEAST_JOB_S * least, (limits.gather.total_seconds() + deadline_s) * min(most, limits.max_waves)


def _cost(job: Job, stages: list[tuple[StageCount, PerCall]], tier: Tier | None) -> tuple[float, float] | None:
    low = high = 0.0
    for count, each in stages:
        if not count.calls[1]:
            continue
        paid = zip(models_of(count.stage.spec), _tiers_of(job, count, tier), strict=True)
        prices = [pricer(choice.name, job.spec.prices, at) for choice, at in paid]
        few = {"input": int(each.input.low), "output": int(each.output.low), WEB_SEARCHES: int(each.searches.low)}
        many = {
            "input": ceil(each.input.high),
            "output": ceil(each.output.high),
            WEB_SEARCHES: ceil(each.searches.high),
        }
        least, most = [price(few) for price in prices], [price(many) for price in prices]
        if None in least or None in most:
            return None
        low += count.calls[0] * min(usd for usd in least if usd is not None)
        high += count.calls[1] * max(usd for usd in most if usd is not None)
    return round(low, 6), round(high, 6)


def _seconds(
    limits: Limits, found: CallCount, stages: list[tuple[StageCount, PerCall]], least: float, most: float
) -> tuple[float, float]:
    """Estimate seconds with one worker: by calls in flight, or by requests and tokens a minute if those are slower."""
    if not found.rows:
        return 0.0, 0.0
    low = sum(count.calls[0] * each.seconds.low for count, each in stages)
    high = sum(count.calls[1] * each.seconds.high for count, each in stages)
    calls = found.calls
    low /= min(limits.rows_in_flight, max(1, calls[0]))
    high /= min(limits.rows_in_flight, max(1, calls[1]))
    for rate, fewest, many in (
        (limits.requests_per_minute, float(calls[0]), float(calls[1])),
        (limits.tokens_per_minute, least, most),
    ):
        if rate is not None:
            low, high = max(low, 60 * fewest / rate), max(high, 60 * many / rate)
    return round(_START_S.low + low, 1), round(_START_S.high + high, 1)
