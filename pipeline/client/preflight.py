"""What is looked at before any workflow and any money: spec, imports, source, columns, sink, key, in that order."""

import re
from collections.abc import Callable
from pathlib import Path

from pipeline.limits.budget import refuse_unpriced
from pipeline.planning.job import Ready, make_job, refuse_unbuilt
from pipeline.settings import expanded
from pipeline.stores import Store, open_store, probe
from schemas.errors import SpecError, StoreError, UsageError
from schemas.spec.loading import in_file, load_spec
from schemas.spec.sections import Spec
from stages.models.factory import ModelServices, missing_key

Say = Callable[[str], None]


def read_spec(path: Path) -> tuple[Spec, Path]:
    """The spec and its folder."""
    return load_spec(path), path.absolute().parent


def sink_of(spec: Spec, base: Path) -> Store:
    return open_store(expanded(spec).sink.path, base=base)


def preflight(spec: Spec, base: Path, *, file: Path | None = None, say: Say = lambda done: None) -> Ready:
    """Everything that can be known to be wrong, before anything is started. `file`: that of the spec, to name its
    lines. Raises UsageError, StoreError."""
    try:
        return _looked_at(spec, base, say)
    except SpecError as exc:
        raise (exc if file is None else in_file(exc, file, spec)) from None


def _looked_at(spec: Spec, base: Path, say: Say) -> Ready:
    say("spec")
    store = sink_of(spec, base)
    refuse_unbuilt(spec)
    refuse_unpriced(spec)
    try:
        job = make_job(spec, base, store, ModelServices())
        say("source and stages")
        probe(store)
    except StoreError as exc:
        raise _of_sink(exc, spec, store) from exc
    say("sink")
    refuse_missing_keys(spec)
    say("keys")
    return Ready(spec, base, store, job)


def _of_sink(exc: StoreError, spec: Spec, store: Store) -> StoreError:
    """The setting that names the place, rather than an object of ours in it."""
    if store.uri not in exc.message:
        return exc
    message = re.sub(rf"{re.escape(store.uri)}/[^\s']*", lambda found: store.uri, exc.message)
    return type(exc)(f"sink.path = {spec.sink.path!r}: {message}", hint=exc.hint)


def refuse_missing_keys(spec: Spec) -> None:
    """Raises UsageError for a model whose provider's key is not set here."""
    for stage in spec.stages:
        for role, choice in stage.model.items():
            missing = missing_key(choice.name)
            if missing is not None:
                raise UsageError(
                    f"stage {stage.name}: model {choice.name!r} ({role}) needs a key, and {missing} is not set.",
                    hint=f"export {missing}=…, or try model: offline:lexical, which needs none.",
                )
