"""The jobs of plans, prepared once per process: spec expanded, user code imported, stages built."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pipeline import memory
from pipeline.activities.short_work import short_work
from pipeline.clouds import model_services
from pipeline.planning.job import Job
from pipeline.planning.preparation import job_of_plan
from pipeline.runs import plan_pages
from pipeline.stores import Store, open_store
from schemas.errors import CodeMismatch
from schemas.messages.base import RunRef
from schemas.plan import Plan
from schemas.spec.sections import Spec
from schemas.spec.tiers import uniform_tier
from schemas.tier import Tier
from stages.models.settings.choice import ModelServices
from stages.stage_digests import code_digests, code_of

_KEPT = 8


@dataclass
class Jobs:
    """Stores and prepared jobs of a process, with the model limiters that all jobs share."""

    services: ModelServices = field(default_factory=model_services)
    _jobs: dict[tuple[str, str, str], "asyncio.Task[tuple[Job, Plan, ModelServices]]"] = field(default_factory=dict)
    _stores: dict[str, Store] = field(default_factory=dict)

    def store(self, ref: RunRef) -> Store:
        if ref.sink not in self._stores:
            self._stores[ref.sink] = open_store(ref.sink)
        return self._stores[ref.sink]

    def stores(self) -> list[Store]:
        """Return the sinks that this process has worked for."""
        return list(self._stores.values())

    async def of(self, ref: RunRef, plan_key: str, tier: Tier | None = None) -> tuple[Job, Plan, ModelServices]:
        """Return the plan, its job and the services of its models, prepared once per process. `tier`: of all models,
        where it is no longer that of the spec. Raises CodeMismatch if the code here is not the planned code."""
        found = await self._of(ref, plan_key, None)
        return found if tier is None or uniform_tier(found[0].spec) == tier else await self._of(ref, plan_key, tier)

    async def _of(self, ref: RunRef, plan_key: str, tier: Tier | None) -> tuple[Job, Plan, ModelServices]:
        key = (ref.sink, plan_key, tier or "")
        if key not in self._jobs:
            if full := len(self._jobs) > _KEPT:
                self._jobs.pop(next(iter(self._jobs)))
            prepared = asyncio.to_thread(_prepare, self.store(ref), plan_key, self.services, tier, freed=full)
            with short_work(short=False):  # the imports of users' code take as long as they take
                self._jobs[key] = asyncio.create_task(prepared)
        try:
            return await asyncio.shield(self._jobs[key])
        except Exception:  # a failed preparation is not kept; a cancel is no Exception and leaves it to other callers
            self._jobs.pop(key, None)
            raise


def _prepare(
    store: Store, plan_key: str, shared: ModelServices, tier: Tier | None, *, freed: bool
) -> tuple[Job, Plan, ModelServices]:
    plan = plan_pages.load_plan(store, plan_key)
    services = shared.apart(no_calls=plan.selection.no_calls, tier=tier)
    job = job_of_plan(store, plan, services)
    refuse_other_code(job.spec, code_of(plan.code), plan.code)
    memory.freeze_gc(freed=freed)
    return job, plan, services


def refuse_other_code(spec: Spec, code: str, planned: Mapping[str, str] = MappingProxyType({})) -> None:
    """Raises CodeMismatch if this process has other user code than that of the digest `code`; "" accepts any.
    `planned`: the digest of each stage, if known."""
    imported = code_digests(spec)
    if code in ("", code_of(imported)):
        return
    changed = sorted(name for name in {*imported, *planned} if imported.get(name) != planned.get(name))
    raise CodeMismatch(f"the code of stage {changed[0]!r} here is not the planned one; waiting for a worker with it")
