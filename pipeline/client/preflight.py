"""Check a pipeline before any workflow and any cost: spec, imports, source, columns, sink, keys, in this order."""

import re
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.client.spec_file import sink_of
from pipeline.clouds import model_services
from pipeline.limits.budget import refuse_unpriced
from pipeline.planning.job import Ready
from pipeline.planning.known_answers import refuse_unreadable
from pipeline.planning.preparation import make_job, refuse_unbuilt
from pipeline.stores import Store, probe
from pipeline.vertex import SIGN_IN
from schemas import ids
from schemas.errors import SpecError, StoreError, UsageError
from schemas.spec.loading import in_file
from schemas.spec.sections import Spec
from stages.models.settings.choice import members_of, missing_key
from stages.models.settings.parameters import complaints
from stages.models.settings.tiers import absent_tiers

StepDone = Callable[[str], None]


def preflight(
    spec: Spec,
    base: Path,
    *,
    file: Path | None = None,
    on_step: StepDone = lambda done: None,
    calls: bool = True,
) -> Ready:
    """Check everything that can be checked before a start. `file`: the spec's file, to name its lines in errors;
    `on_step` gets the name of each step done; `calls`: models are called, and so need their keys. Raises UsageError,
    StoreError."""
    try:
        return _check(spec, base, on_step, calls)
    except SpecError as exc:
        raise (exc if file is None else in_file(exc, file, spec)) from None


def _check(spec: Spec, base: Path, on_step: StepDone, calls: bool) -> Ready:
    on_step("spec")
    store = sink_of(spec, base)
    refuse_unbuilt(spec)
    refuse_absent_tiers(spec)
    refuse_unpriced(spec)
    try:
        _refuse_while_forgetting(store)
        job = make_job(spec, base, store, model_services())
        refuse_unreadable(job)
        on_step("source and stages")
        probe(store)
    except StoreError as exc:
        raise _as_sink_error(exc, spec, store) from exc
    on_step("sink")
    if calls:
        refuse_missing_keys(spec)
        refuse_untaken(spec)
    on_step("keys")
    return Ready(spec, base, store, job)


def _refuse_while_forgetting(store: Store) -> None:
    """Raises UsageError while rows are removed from the sink: a run could carry them over to where they were."""
    # By a listing: the answer to a HEAD has no body, and so no reason why access is denied.
    if next(iter(store.list(ids.FORGETTING)), None) is not None:
        raise UsageError(
            f"{store.uri}: tandem forget is at work, or was killed at it.",
            hint="If it was killed, finish it with: tandem forget --yes",
        )


def _as_sink_error(exc: StoreError, spec: Spec, store: Store) -> StoreError:
    """Return an error that names the setting `sink.path` instead of an internal object."""
    if store.uri not in exc.message:
        return exc
    message = re.sub(rf"{re.escape(store.uri)}/[^\s']*", lambda match: store.uri, exc.message)
    return type(exc)(f"sink.path = {spec.sink.path!r}: {message}", hint=exc.hint)


def refuse_absent_tiers(spec: Spec) -> None:
    """Raises UsageError for a model that has not the price tier that it is to be asked at."""
    for sentence, hint in absent_tiers(spec):
        raise UsageError(sentence, hint=hint)


def refuse_untaken(spec: Spec) -> None:
    """Raises UsageError for a parameter that the provider itself is known to refuse."""
    for complaint in complaints(spec):
        if complaint.refused:
            raise UsageError(complaint.message, hint=complaint.hint)


def refuse_missing_keys(spec: Spec) -> None:
    """Raises UsageError for a model whose provider's key is not set here."""
    for stage in spec.stages:
        for role, choice in stage.model.items():
            for member in chain(*members_of(choice)):
                _refuse_without_credentials(stage.name, {**stage.params, **member.params}, member.name)
                missing = None if "api_key" in member.params else missing_key(member.name)
                if missing is not None:
                    raise UsageError(
                        f"stage {stage.name}: model {member.name!r} ({role}) needs a key, and {missing} is not set.",
                        hint=f"export {missing}=…, or try model: offline:lexical, which needs none.",
                    )


# provider → whose credentials it needs, and how to set them
_AWS = ("AWS", "export AWS_PROFILE=…, or AWS_ACCESS_KEY_ID=… and AWS_SECRET_ACCESS_KEY=…")
_CLOUDS = {
    "bedrock": _AWS, "bedrock_converse": _AWS,
    "google_vertexai": ("Google Cloud", SIGN_IN),
}  # fmt: skip


def _refuse_without_credentials(stage: str, params: Mapping[str, Any], name: str) -> None:
    """Raises UsageError for a model on a cloud if the cloud's credentials are not found here."""
    provider = name.partition(":")[0]
    access = model_services().access(provider, params)
    if access is not None and not access.has_credentials():
        cloud, hint = _CLOUDS[provider]
        raise UsageError(f"stage {stage}: model {name!r} needs credentials of {cloud}, and none were found.", hint=hint)
