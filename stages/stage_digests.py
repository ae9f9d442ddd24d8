"""Digests of a stage: its fingerprint (everything that could change its answers), its shape (everything that shapes its
output), its aspects (the parts that a user can change) and the user's code that it runs.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import orjson

from schemas import digests
from schemas.digests import digest
from schemas.spec.fields import OutputField
from schemas.spec.sections import Spec, Stage
from schemas.spec.tools import McpServer, functions_in, kind_of, names_in
from stages.contract import AnyStage, Options, StageSetup
from stages.models.settings.choice import model_identity
from stages.user_code import code_digest

if TYPE_CHECKING:
    from stages.models.answers.answer_format import AnswerFormat  # LangChain

_PACE = {"row_timeout", "blocking", "cache"}


def stage_fingerprint(setup: StageSetup, version: str, form: "AnswerFormat", options: Options | None = None) -> str:
    """Return the digest of everything that could change the stage's answers; not of later steps."""
    stage = setup.stage
    code = [code_digest(ref) for ref in (*([stage.uses] if ":" in stage.uses else []), *functions_in(stage.tools))]
    if stage.output_class:
        code.append(code_digest(stage.output_class))
    content = {
        "kind": version,
        "version": stage.version,
        "models": {role: model_identity(choice, stage.params).decode() for role, choice in stage.model.items()},
        "prompt": stage.prompt,
        "system": stage.system,
        "when_empty": stage.when_empty,
        "schema": form.schema,
        "inputs": stage.inputs,
        "outputs": stage.outputs,
        "context": stage.context,
        # Without nulls: an option that is added, null by default, changes no fingerprint.
        "with": options.model_dump(mode="json", exclude=set(options.pacing), exclude_none=True) if options else {},
        "max_cell": [stage.max_cell, stage.over_max_cell],
        "code": code,
    }
    if stage.coerce != "lenient":  # the default is in no fingerprint, so that older fingerprints stay valid
        content["coerce"] = stage.coerce
    if not stage.share:
        content["share"] = False
    if stage.examples:
        content["examples"] = [example.model_dump() for example in stage.examples]
    if others := [tool for tool in stage.tools if kind_of(tool) != "function"]:
        content["tools"] = others
        content["mcp"] = {name: _identity_of(setup.spec.mcp[name]) for name in names_in(stage.tools, "mcp")}
    if stage.citations is not None:
        content["citations"] = stage.citations
    return digest(orjson.dumps(content, option=orjson.OPT_SORT_KEYS, default=str))


def _identity_of(server: McpServer) -> dict[str, object]:
    """Return what says which server it is, and never a secret: neither its environment nor its headers."""
    return {"command": server.command, "url": server.url, "tools": server.tools}


def code_of(digests: Mapping[str, str]) -> str:
    """Return one digest over those of all stages, as `code_digests` returns them."""
    return digest(*(f"{stage}={digests[stage]}" for stage in sorted(digests)))


def code_digests(spec: Spec) -> dict[str, str]:
    """Return the digest of each stage's user code, frozen into a plan, so that no worker runs a batch with other
    code."""
    out = {}
    for stage in spec.stages:
        references = [ref for ref in (stage.uses, stage.output_class or "", *functions_in(stage.tools)) if ":" in ref]
        if references:
            out[stage.name] = digest(*(code_digest(ref) for ref in references))
    return out


def shape_of(stage: AnyStage) -> str:
    """Return the digest of everything that shapes the stage's output: its answers, and how they are used."""
    return shape_under(stage.fingerprint, stage.spec, stage.fields)


def shape_under(fingerprint: str, spec: Stage, fields: Mapping[str, OutputField]) -> str:
    """Return the shape of a stage that has this fingerprint and these output columns."""
    limits = "|".join(f"{name}:{field.model_dump_json()}" for name, field in fields.items())
    return digests.digest(fingerprint, spec.on_reject, str(spec.replace), str(spec.drop), limits)


def aspects_of(stage: AnyStage, code: str) -> dict[str, str]:
    """Return digests of the parts of a stage that a user may change; `options` covers parts without a name of their
    own. They only explain differences."""
    spec = stage.spec
    named = {"name", "version", "prompt", "system", "model", "params", "output", "output_class", "query", "examples"}
    if spec.coerce == "lenient":
        named.add("coerce")
    if spec.share:
        named.add("share")
    if spec.citations is None:
        named.add("citations")
    parts: dict[str, object] = {
        "version": spec.version,
        "prompt": [spec.system, spec.prompt, *([spec.examples] if spec.examples else [])],
        "model": {role: model_identity(choice, spec.params).decode() for role, choice in spec.model.items()},
        "output": {name: field.model_dump() for name, field in stage.fields.items()},
        "code": code,
        "query": spec.query,
        "options": spec.model_dump(exclude=named | _PACE),
    }
    return {
        name: digests.digest(orjson.dumps(parts[name], option=orjson.OPT_SORT_KEYS, default=str))[:16] for name in parts
    }
