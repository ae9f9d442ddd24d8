"""Price tiers of models: `standard`, `flex` (slower), `batch` (by provider batch jobs). How a call is paid for changes
nothing of what it answers: a tier is part of no fingerprint, and of no run's identity."""

from collections.abc import Iterator

from schemas.spec.sections import ModelChoice, Spec
from schemas.tier import Tier

STANDARD: Tier = "standard"


def with_tier(spec: Spec, tier: Tier | None) -> Spec:
    """Return the spec with all its models at one tier; None: as it is."""
    if tier is None or uniform_tier(spec) == tier:
        return spec
    stages = [
        stage.model_copy(update={"model": {role: _at(choice, tier) for role, choice in stage.model.items()}})
        for stage in spec.stages
    ]
    return spec.model_copy(update={"stages": stages})


def _at(choice: ModelChoice, tier: Tier) -> ModelChoice:
    others = [_at(other, tier) for other in choice.others]
    return choice.model_copy(update={"tier": tier, "others": others})


def uniform_tier(spec: Spec) -> Tier | None:
    """Return the tier of all models; None where they differ. Without a model: standard."""
    found = {choice.tier for choice in _choices(spec)}
    return (found or {STANDARD}).pop() if len(found) < 2 else None


def uses_tier(spec: Spec, tier: Tier) -> bool:
    return any(choice.tier == tier for choice in _choices(spec))


def _choices(spec: Spec) -> Iterator[ModelChoice]:
    for stage in spec.stages:
        for choice in stage.model.values():
            yield choice
            yield from choice.others
