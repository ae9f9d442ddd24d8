"""A run's budget from the outside: declaring it, raising it, refusing what cannot be counted, and the reckoning when
the next call does not fit."""

import datetime as dt
from pathlib import Path

from pipeline import ledger
from pipeline.ledger import Ledger, Limits, usd
from pipeline.purse import left_of, reconcile, utc_today
from pipeline.standing import usage_so_far
from pipeline.stores import Store
from schemas.errors import SpecError, UsageError
from schemas.messages.run import Reckoned, Reckoning
from schemas.spec.sections import Limits as SpecLimits
from schemas.spec.sections import Spec
from stages.limits.budget import DEFAULT_CAP, NANOS, Amount, amount_of, cap_in
from stages.limits.prices import pricer

_DEAR = 20  # a call that may take more than this part of a budget deserves a word on max_tokens


def declare(store: Store, run: str, limits: SpecLimits, max_cost_usd: float | None = None) -> bool:
    """Write down what a run may spend: of its command, else of its spec; what it may spend already stays unless one of
    them says something new. What it spent without a budget counts. Is there a budget?"""
    book = ledger.of_run(store, run)
    found = book.read()
    if found is None:
        wanted = _limits(limits, max_cost_usd or limits.max_cost_usd)
        if not wanted.any:
            return False
        before = usage_so_far(store, run)
        spent = amount_of(before.cost_usd, before.input_tokens + before.output_tokens)
        fresh = Ledger(limits=wanted, nanos=spent.nanos, tokens=spent.tokens)
        book.change(lambda seen: fresh if seen == Ledger() else seen)
        return True
    said_anew = limits.max_cost_usd if limits.max_cost_usd != found.limits.asked_usd else None
    kept = None if found.limits.nanos is None else usd(found.limits.nanos)
    wanted = _limits(limits, max_cost_usd or said_anew or kept)
    return book.change(lambda seen: _with_limits(seen, wanted)).limits.any


def ensure(store: Store, run: str, limits: SpecLimits) -> None:
    """The same where nobody has declared it: a run that a schedule has started."""
    if ledger.of_run(store, run).read() is None:
        declare(store, run, limits)


def raise_to(store: Store, run: str, max_cost_usd: float) -> Ledger:
    """A new budget for a run that has one. Raises UsageError."""
    book = ledger.of_run(store, run)
    found = book.read()
    if found is None or found.limits.nanos is None:
        raise UsageError(
            f"The run {run!r} was started without a budget in USD.",
            hint="Give the command that started it again, with --max-cost.",
        )
    nanos = round(max_cost_usd * NANOS)
    if found.spent.nanos > nanos:
        raise UsageError(
            f"--max-cost {max_cost_usd:g}: {_usd(found.spent.nanos)} are spent already.", hint="Name a higher budget."
        )
    return book.change(lambda seen: _with_limits(seen, seen.limits.model_copy(update={"nanos": nanos})))


def _with_limits(seen: Ledger, limits: Limits) -> Ledger:
    """Other limits than those that it was paused by."""
    return seen if limits == seen.limits else seen.model_copy(update={"limits": limits, "paused": ""})


def _limits(limits: SpecLimits, max_cost_usd: float | None) -> Limits:
    day = limits.max_cost_usd_per_day
    return Limits(
        nanos=None if max_cost_usd is None else round(max_cost_usd * NANOS),
        tokens=limits.max_tokens,
        day_nanos=None if day is None else round(day * NANOS),
        asked_usd=limits.max_cost_usd,
    )


def refuse_unpriced(spec: Spec, max_cost_usd: float | None = None) -> None:
    """With a budget in USD, the price of every model has to be known before anything is asked. Raises SpecError."""
    limits = spec.limits
    named = [
        name
        for name, value in (
            ("--max-cost", max_cost_usd),
            ("limits.max_cost_usd", limits.max_cost_usd),
            ("limits.max_cost_usd_per_day", limits.max_cost_usd_per_day),
        )
        if value is not None
    ]
    for stage in spec.stages:
        for choice in stage.model.values():
            if named and pricer(choice.name, spec.prices)({"input": 1, "output": 1}) is None:
                raise SpecError(
                    f"{named[0]} is set, and nobody knows the price of {choice.name!r} (stage {stage.name}).",
                    hint=f"Add USD per million tokens to the spec: prices: {{{choice.name}: {{input: …, output: …}}}}",
                )


def notes(spec: Spec, max_cost_usd: float | None = None) -> list[str]:
    """What a budget changes about calls, for who did not say it himself."""
    limits = spec.limits
    if not (max_cost_usd or limits.max_cost_usd or limits.max_cost_usd_per_day or limits.max_tokens):
        return []
    without = sorted(
        stage.name
        for stage in spec.stages
        if any(
            cap_in({**stage.params, **choice.params}) is None and not choice.name.startswith("offline:")
            for choice in stage.model.values()
        )
    )
    if not without:
        return []
    said = f"answers of {', '.join(without)} are cut off at {DEFAULT_CAP:,} tokens, so that the budget holds"
    return [f"Note: {said}; set params: {{max_tokens: …}} to choose."]


# The reckoning ------------------------------------------------------------------------------------------------------


def reckon(store: Store, request: Reckoning, folder: Path) -> Reckoned:
    """Nothing of the run is in flight, so what is left is what is left. Accounts of those who died here are closed."""
    need = Amount(request.nanos, request.tokens)
    book = ledger.of_run(store, request.ref.run)
    found = reconcile(book, folder)
    limits = found.limits
    left = left_of(found, (limits.nanos, limits.tokens))
    message, until = "", None
    if limits.nanos is not None and left.nanos < need.nanos:
        message = _too_dear(found, limits.nanos, need, request.ref.run)
    elif limits.tokens is not None and left.tokens < need.tokens:
        message = (
            f"limits.max_tokens is {limits.tokens:,}: {found.charged.tokens:,} tokens are used, and the next call may "
            f"take {need.tokens:,}. Raise it in the spec and give the same command again."
        )
    elif limits.day_nanos is not None:
        today = utc_today()
        day = reconcile(ledger.of_day(store, today), folder)
        if left_of(day, (limits.day_nanos, None)).nanos < need.nanos:
            message = (
                f"limits.max_cost_usd_per_day is {usd(limits.day_nanos):g} USD: {_usd(day.charged.nanos)} are spent "
                f"today, and the next call may take {_usd(need.nanos)}. The run goes on after midnight UTC, or once "
                "that is raised in the spec and the same command given again."
            )
            until = dt.datetime.combine(today + dt.timedelta(days=1), dt.time(), dt.UTC)
    if message:
        book.change(lambda seen: seen.model_copy(update={"paused": message}))
    return Reckoned(go_on=not message, message=message, until=until)


def _too_dear(found: Ledger, limit: int, need: Amount, run: str) -> str:
    lost = sum(held.nanos for held in found.slices.values())
    of_those = f", {_usd(lost)} of them held for workers that ended without a word" if lost else ""
    said = (
        f"The budget of {usd(limit):g} USD is reached: {_usd(found.charged.nanos)} are spent{of_those}, and the next "
        f"call may take up to {_usd(need.nanos)}."
    )
    if need.nanos * _DEAR > limit:
        said += " A lower params.max_tokens lets more calls fit."
    return f"{said} Go on with: tandem runs resume {run} --max-cost {2 * usd(limit):g}"


def _usd(nanos: int) -> str:
    return f"{usd(nanos):,.4f} USD"
