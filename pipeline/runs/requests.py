"""A run's request: written once under its name, it is that run's identity."""

import datetime as dt
import hashlib
import os
import uuid
from pathlib import Path
from typing import Any

from pipeline.stores import Store
from pipeline.stores.documents import read_document
from schemas import digests, ids
from schemas.errors import Damaged, NameTaken, ObjectMissing
from schemas.plan import RunRequest, Selection
from schemas.spec.sections import Spec, superseded_stay

# Settings of a spec that do not change the results of a run, only its speed, notifications and allowed cost.
_NOT_IDENTITY = {
    "limits": {"rows_in_flight", "partitions_in_flight", "requests_per_minute", "tokens_per_minute", "max_cost_usd",
               "max_cost_usd_per_day", "max_tokens", "call_timeout", "max_memory", "gather", "deadline",
               "after_deadline", "max_waves", "flex_patience"},
    "sink": {"keep_generations"},
    "source": {"settle", "done"},
    "notify": True, "schedule": True, "prices": True, "trace": True, "trace_content": True,
}  # fmt: skip
_STAGE_SPEED = {"row_timeout", "blocking", "cache"}
_HOW_PAID = {"tier": True, "batch_deployment": True}
_PRICE_TIER: dict[str, Any] = {"__all__": {**_HOW_PAID, "others": {"__all__": _HOW_PAID}}}
_YOUNGER: dict[str, Any] = {"coerce": "lenient", "share": True, "examples": [], "citations": None}
_FORMER_STAY = dt.timedelta(minutes=15)


def request_digest(spec: Spec, selection: Selection) -> str:
    """Digest a request. A run that began under the former default of `keep_superseded` has the same digest now."""
    if spec.sink.keep_superseded == superseded_stay(spec.sink.format):
        sink = spec.sink.model_copy(update={"keep_superseded": _FORMER_STAY})
        spec = spec.model_copy(update={"sink": sink})
    exclude: dict[str, Any] = dict(_NOT_IDENTITY)
    # Keys that are younger than runs that may be open count only where they are used.
    unused = {name for name, default in _YOUNGER.items() if all(getattr(one, name) == default for one in spec.stages)}
    plain_stage = dict.fromkeys((*_STAGE_SPEED, *unused), True)
    exclude["stages"] = {"__all__": {**plain_stage, "model": _PRICE_TIER}}
    exclude["journal"] = {"requests", *(() if spec.journal.read_from else ("read_from",))}
    if spec.partition.gone == "keep":
        exclude["partition"] = {"gone"}
    if not spec.mcp:
        exclude["mcp"] = True
    if all(check.unique is None for check in spec.checks):
        exclude["checks"] = {"__all__": {"unique"}}
    spec_json = spec.model_dump_json(exclude=exclude)
    plain = {name for name in ("prune", "no_calls") if not getattr(selection, name)}
    return digests.digest(spec_json, selection.model_dump_json(exclude=plain))


def new_run_name(now: dt.datetime) -> str:
    return f"{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"


def write_request(store: Store, spec: Spec, base: Path, selection: Selection, run: str) -> RunRequest:
    """Write the request under its name, or find the equal one there. Raises NameTaken for another one."""
    data = spec.model_dump_json().encode()
    spec_key = ids.spec_of_run(run, hashlib.sha256(data).hexdigest())
    request = RunRequest(
        run=run,
        pipeline=spec.name,
        digest=request_digest(spec, selection),
        spec=spec_key,
        base=str(base.absolute()),
        selection=selection,
        created_at=dt.datetime.now(dt.UTC),
        lineage_parent=os.environ.get("OPENLINEAGE_PARENT_ID", ""),
        lineage_root=os.environ.get("OPENLINEAGE_ROOT_PARENT_ID", ""),
    )
    store.put_absent(spec_key, data)
    if store.put_absent(ids.request(run), request.model_dump_json().encode()):
        return request
    known = read_document(store, ids.request(run), RunRequest)
    if known.digest != request.digest:
        raise NameTaken(f"The run {run!r} has another spec or selection.", hint="Choose another --name, or remove it.")
    return known


def load_request(store: Store, run: str) -> RunRequest | None:
    """Load a run's request; None if there is none, or it is damaged."""
    try:
        return read_document(store, ids.request(run), RunRequest)
    except (ObjectMissing, Damaged):
        return None


def load_spec_of(store: Store, key: str) -> Spec:
    return read_document(store, key, Spec)
