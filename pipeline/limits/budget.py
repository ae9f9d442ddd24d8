"""A run's budget: declare it, raise it, refuse models without a price."""

from collections.abc import Callable

from pipeline.limits import job_budget, ledger
from pipeline.limits.ledger import BudgetLimits, Ledger, usd
from pipeline.stores import Store
from schemas.errors import SpecError, UsageError
from schemas.manifest import TierUsage, Usage
from schemas.spec.sections import Limits as SpecLimits
from schemas.spec.sections import Spec
from schemas.spec.tools import names_in
from stages.limits.budget import DEFAULT_CAP, NANOS, amount_of, cap_in
from stages.limits.prices import WEB_SEARCHES, pricer
from stages.models.settings.choice import models_of
from stages.models.settings.parameters import default_cap


def declare(
    store: Store, run: str, limits: SpecLimits, paid: Callable[[], Usage], max_cost_usd: float | None = None
) -> bool:
    """Store the run's budget: the command's, else the spec's; an earlier one stays unless one of them has changed.
    Usage `paid` without a budget counts. Returns True if there is a budget."""
    book = ledger.of_run(store, run)
    found = book.read()
    if found is None:
        budget_limits = _limits(limits, max_cost_usd or limits.max_cost_usd)
        if not budget_limits.any:
            return False
        _begin(store, run, paid, budget_limits)
        return True
    changed = limits.max_cost_usd if limits.max_cost_usd != found.limits.asked_usd else None
    kept = None if found.limits.nanos is None else usd(found.limits.nanos)
    budget_limits = _limits(limits, max_cost_usd or changed or kept)
    return book.change(lambda seen: _with_limits(seen, budget_limits)).limits.any


def ensure(store: Store, run: str, limits: SpecLimits, paid: Callable[[], Usage]) -> None:
    """Declare the budget if it is not declared yet: for a run that a schedule has started."""
    if ledger.of_run(store, run).read() is None:
        declare(store, run, limits, paid)


def set_to(store: Store, run: str, max_cost_usd: float, paid: Callable[[], Usage]) -> Ledger:
    """Set a run's budget, or its first: usage `paid` before then counts. Raises UsageError if more is spent already."""
    book = ledger.of_run(store, run)
    nanos = round(max_cost_usd * NANOS)
    found = book.read()
    if found is None:
        found = _begin(store, run, paid, BudgetLimits())
    if found.spent.nanos > nanos:
        raise UsageError(
            f"--max-cost {max_cost_usd:g}: {in_usd(found.spent.nanos)} are spent already.", hint="Set a higher budget."
        )
    return book.change(lambda seen: _with_limits(seen, seen.limits.model_copy(update={"nanos": nanos})))


def _begin(store: Store, run: str, paid: Callable[[], Usage], limits: BudgetLimits) -> Ledger:
    """Write the first ledger of a run: what was `paid` without one counts. Of provider jobs, those that have ended are
    charged what they cost, those that are out the most that they may."""
    usage = paid()
    by_jobs = usage.by_tier.get("batch", TierUsage())
    tokens = usage.input_tokens + usage.output_tokens - by_jobs.tokens
    of_jobs, held = job_budget.account_of_jobs(store, run)
    spent = amount_of(max(0.0, usage.cost_usd - by_jobs.cost_usd), tokens) + of_jobs
    fresh = Ledger(limits=limits, nanos=spent.nanos, tokens=spent.tokens, slices=held)
    book = ledger.of_run(store, run)
    book.change(lambda seen: fresh if seen == Ledger() else seen)
    job_budget.settle_ended(store, run)
    return book.read() or fresh


def _with_limits(seen: Ledger, limits: BudgetLimits) -> Ledger:
    """Return the ledger with these limits; new ones end a pause."""
    return seen if limits == seen.limits else seen.model_copy(update={"limits": limits, "paused": ""})


def _limits(limits: SpecLimits, max_cost_usd: float | None) -> BudgetLimits:
    day = limits.max_cost_usd_per_day
    return BudgetLimits(
        nanos=None if max_cost_usd is None else round(max_cost_usd * NANOS),
        tokens=limits.max_tokens,
        day_nanos=None if day is None else round(day * NANOS),
        asked_usd=limits.max_cost_usd,
    )


def refuse_unpriced(spec: Spec, max_cost_usd: float | None = None) -> None:
    """Raise SpecError if there is a budget in USD and a model's price is unknown."""
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
        for choice in models_of(stage):
            price = pricer(choice.name, spec.prices)
            if named and price({"input": 1, "output": 1}) is None:
                raise SpecError(
                    f"{named[0]} is set, and the price of {choice.name!r} (stage {stage.name}) is unknown.",
                    hint=f"Add USD per million tokens to the spec: prices: {{{choice.name}: {{input: …, output: …}}}}",
                )
            searches = names_in(stage.tools, "provider") and named
            if searches and price({"input": 1, "output": 1, WEB_SEARCHES: 1}) is None:
                raise SpecError(
                    f"{named[0]} is set, and the price of web searches by {choice.name!r} (stage {stage.name}) is "
                    "unknown.",
                    hint="Add USD per thousand searches to the spec: prices: "
                    f"{{{choice.name}: {{input: …, output: …, web_search: …}}}}",
                )


def notes(spec: Spec, max_cost_usd: float | None = None) -> list[str]:
    """Return notes on calls that a budget changes, for stages without an own setting."""
    limits = spec.limits
    if not (max_cost_usd or limits.max_cost_usd or limits.max_cost_usd_per_day or limits.max_tokens):
        return []
    without: dict[int, list[str]] = {}  # cap → stages
    for stage in spec.stages:
        for choice in models_of(stage):
            if cap_in({**stage.params, **choice.params}) is None and not choice.name.startswith("offline:"):
                stages = without.setdefault(default_cap(choice, stage.params), [])
                stages += [stage.name] if stage.name not in stages else []
    return [
        f"Note: answers of {', '.join(sorted(stages))} are cut off at {cap:,} tokens{_thoughts(cap)}, so that the "
        "budget holds; set params: {max_tokens: …} to choose."
        for cap, stages in sorted(without.items())
    ]


def _thoughts(cap: int) -> str:
    return ", thoughts included" if cap != DEFAULT_CAP else ""


# Money --------------------------------------------------------------------------------------------------------------


def in_usd(nanos: int) -> str:
    return f"{usd(nanos):,.4f} USD"
