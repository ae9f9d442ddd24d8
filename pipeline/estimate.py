"""What a run would cost, before it costs anything: calls as counted, tokens from rendered prompts, as ranges."""

from dataclasses import dataclass

from pipeline.forecast import Forecast, StageCount
from pipeline.plans import Job
from stages.prices import pricer

_BYTES_PER_TOKEN = 4
_UNSEEN_INPUT = (20, 2_000)  # tokens of a prompt of which nothing is known yet
_OUTPUT = (1, 300)
_CALL_S = (0.2, 20.0)
_START_S = (1.0, 10.0)


@dataclass(frozen=True)
class Estimate:
    """[low, high] of each. Money is None where a model's price is not known."""

    rows: int
    calls: tuple[int, int]
    input_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    cost_usd: tuple[float, float] | None
    seconds: tuple[float, float]


def estimate(job: Job, found: Forecast) -> Estimate:
    """For the partitions that would run."""
    given, got = (0, 0), (0, 0)
    cost: tuple[float, float] | None = (0.0, 0.0)
    for count in found.stages:
        tokens, output = _per_call(count)
        calls = count.calls
        given = _plus(given, (calls[0] * tokens[0], calls[1] * tokens[1]))
        got = _plus(got, (calls[0] * output[0], calls[1] * output[1]))
        if calls[1]:
            cost = _cost(job, count, tokens, output, cost)
    in_flight = job.spec.limits.rows_in_flight
    calls = found.calls
    seconds = (0.0, 0.0)
    if found.rows:
        low, high = (
            start + n * each / min(in_flight, max(1, n))
            for start, n, each in zip(_START_S, calls, _CALL_S, strict=True)
        )
        seconds = (round(low, 1), round(high, 1))
    return Estimate(found.rows, calls, given, got, cost, seconds)


def _per_call(count: StageCount) -> tuple[tuple[int, int], tuple[int, int]]:
    """Tokens in and out of one call: around the mean of the rendered prompts, wide where there were none."""
    most = int(count.stage.spec.params.get("max_tokens", _OUTPUT[1]))
    output = (min(_OUTPUT[0], most), most)
    if not count.measured:
        return _UNSEEN_INPUT, output
    mean = count.prompt_bytes / count.measured / _BYTES_PER_TOKEN
    return (max(1, round(mean * 0.5)), round(mean * 2) + 400), output


def _cost(
    job: Job, count: StageCount, given: tuple[int, int], got: tuple[int, int], so_far: tuple[float, float] | None
) -> tuple[float, float] | None:
    if so_far is None:
        return None
    prices = [pricer(choice.name, job.spec.prices) for choice in count.stage.spec.model.values()]
    low = [price({"input": given[0], "output": got[0]}) for price in prices]
    high = [price({"input": given[1], "output": got[1]}) for price in prices]
    if None in low or None in high:
        return None
    calls = count.calls
    least, most = min(p for p in low if p is not None), max(p for p in high if p is not None)
    return round(so_far[0] + calls[0] * least, 6), round(so_far[1] + calls[1] * most, 6)


def _plus(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]
