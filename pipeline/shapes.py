"""What shapes a stage's part of the output: one digest that manifests are compared with, and digests of its aspects,
so that a plan can name what changed."""

import orjson

from schemas import digests
from stages.contract import AnyStage, GraphStage
from stages.models import model_identity


def shape_of(stage: AnyStage) -> str:
    """A digest of all that shapes its part of the output: its answers, and what is done with them."""
    spec = stage.spec
    limits = (
        "|".join(f"{name}:{field.model_dump_json()}" for name, field in stage.fields.items())
        if isinstance(stage, GraphStage)
        else ""
    )
    return digests.digest(stage.fingerprint, spec.on_reject, str(spec.replace), str(spec.drop), limits)


def aspects_of(stage: AnyStage, code: str) -> dict[str, str]:
    """Digests of what a user may change about a stage; `options` is all that has no name of its own. They explain a
    difference, and decide nothing."""
    spec = stage.spec
    fields = stage.fields if isinstance(stage, GraphStage) else {}
    named = {"name", "version", "prompt", "system", "model", "params", "output", "output_class", "query"}
    said: dict[str, object] = {
        "version": spec.version,
        "prompt": [spec.system, spec.prompt],
        "model": {role: model_identity(choice, spec.params).decode() for role, choice in spec.model.items()},
        "output": {name: field.model_dump() for name, field in fields.items()},
        "code": code,
        "query": spec.query,
        "options": spec.model_dump(exclude=named),
    }
    return {
        name: digests.digest(orjson.dumps(said[name], option=orjson.OPT_SORT_KEYS, default=str))[:16] for name in said
    }
