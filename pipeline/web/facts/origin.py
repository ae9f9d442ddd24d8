"""How a row's cells came about, in words for the page: outcomes, calls, who answered."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.outputs.cell import StageTrace, TracedCall
from pipeline.web.rendering import number, plain, pretty, seconds, usd
from schemas.manifest import Manifest
from schemas.spec.sections import Spec
from stages.journal.records import TOOL, AnswerRecord, CallRecord, RowRecord


@dataclass(frozen=True)
class CallText:
    """A call. `messages` as they were sent, None if they are not kept; `details` are names and values."""

    model: str
    facts: tuple[str, ...]
    messages: tuple[tuple[str, str], ...] | None
    answer: str
    by: str
    details: tuple[tuple[str, str], ...]
    settings: str
    raw: str


@dataclass(frozen=True)
class AnswerText:
    by: str
    at: dt.datetime
    text: str


@dataclass(frozen=True)
class StageText:
    """What a stage did for the row. `writes` are its output columns."""

    name: str
    uses: str
    writes: tuple[str, ...]
    status: str
    summary: str
    error: str
    steps: str
    calls: tuple[CallText, ...]
    answers: tuple[AnswerText, ...]


def stage_texts(traces: Sequence[StageTrace], spec: Spec, manifest: Manifest) -> list[StageText]:
    stages = {stage.name: stage for stage in spec.stages}
    prompts = {one.stage: one.prompt_digest for one in manifest.provenance}
    return [
        StageText(
            name=one.stage,
            uses=stages[one.stage].uses,
            writes=tuple(stages[one.stage].output),
            status=one.outcome.status if one.outcome is not None else "",
            summary=_summary(one, manifest, prompts.get(one.stage)),
            error=_error(one.outcome),
            steps=" → ".join(step.where for step in sorted(one.steps, key=lambda step: step.at)),
            calls=tuple(_call(call, manifest) for call in one.calls),
            answers=tuple(map(_answer, one.answers)),
        )
        for one in traces
    ]


def _summary(one: StageTrace, manifest: Manifest, prompt: str | None) -> str:
    outcome = one.outcome
    parts = []
    if outcome is None:
        parts.append("works on tables: it keeps no record of single rows")
    else:
        models = len([call for call in one.calls if not call.record.model.startswith(TOOL)])
        parts.append(f"{models:,} model call{'s' * (models != 1)}")
        if outcome.cost_usd is not None:
            parts.append(f"{usd(outcome.cost_usd)} USD")
        if outcome.shared:
            parts.append("shares the answer of an equal row")
        if outcome.run != manifest.run:
            parts.append(f"from the journal: answered in run {outcome.run}")
        if outcome.mended:
            parts.append(f"corrected: {', '.join(outcome.mended)}")
        if one.voided:
            parts.append(f"asked again {one.voided:,} time{'s' * (one.voided != 1)}")
    if prompt:
        parts.append(f"prompt {prompt[:12]}")
    return ", ".join(parts)


def _error(outcome: RowRecord | None) -> str:
    if outcome is None or not outcome.error or outcome.status == "pending":
        return ""
    return f"{outcome.error.get('kind', 'error')}: {outcome.error.get('message', '')}"


def _call(call: TracedCall, manifest: Manifest) -> CallText:
    record = call.record
    content, details = _content(record)
    facts = [
        f"{number(record.usage.get('input', 0))} tokens in, {number(record.usage.get('output', 0))} out",
        f"{usd(record.cost_usd)} USD" if record.cost_usd is not None else "no price",
        seconds(record.latency_ms / 1000),
    ]
    if record.usage.get("cached_input"):
        facts.append(f"{number(record.usage['cached_input'])} of them cached")
    if record.run != manifest.run:
        facts.append(f"paid in run {record.run}, not again")
    request = call.request
    return CallText(
        model=record.model,
        facts=tuple(facts),
        messages=None if request is None else tuple(_message(one) for one in request["messages"]),
        answer=content,
        by=_by(record),
        details=(*details, *_details(record)),
        settings="" if request is None else pretty({name: request[name] for name in ("model", "settings")}),
        raw=pretty(record.raw or ""),
    )


def _message(message: Mapping[str, Any]) -> tuple[str, str]:
    content = message.get("content")
    text = content if isinstance(content, str) else pretty(content) if content else ""
    calls = message.get("tool_calls")
    return str(message.get("role", "")), text + (f"\n{pretty(calls)}" if calls else "")


def _content(record: CallRecord) -> tuple[str, list[tuple[str, str]]]:
    """Return what a model answered, as a person reads it, and the reason of its end."""
    if record.raw is None:
        return f"The outcome is not known: {(record.error or {}).get('message', 'the connection was lost')}", []
    try:
        raw = orjson.loads(record.raw)
    except orjson.JSONDecodeError:
        return record.raw, []
    if not isinstance(raw, dict):
        return plain(raw), []
    content, calls = raw.get("content"), raw.get("tool_calls")
    text = pretty(content) if content else ""
    if calls:
        text = f"{text}\n{pretty(calls)}".strip()
    ended = (raw.get("response_metadata") or {}).get("finish_reason")
    return text, [("ended by", str(ended))] if ended else []


def _details(record: CallRecord) -> list[tuple[str, str]]:
    at = dt.datetime.fromtimestamp(record.at, dt.UTC)
    found = [
        ("run", record.run), ("batch", f"{record.batch:,}"), ("time", f"{at:%Y-%m-%d %H:%M:%S} UTC"),
        ("request digest", record.request), ("repetition", f"{record.ordinal:,}"),
        ("request id", record.request_id or "none was given"),
    ]  # fmt: skip
    found += [(name, f"{value:,}") for name, value in record.usage.items()]
    by = {name: value for name, value in (record.by or {}).items() if name != "stage"}
    return [*found, *((f"answered by: {name}", value) for name, value in by.items())]


def _by(record: CallRecord) -> str:
    return (record.by or {}).get("model", "")


def _answer(record: AnswerRecord) -> AnswerText:
    return AnswerText(record.by or "", dt.datetime.fromtimestamp(record.at, dt.UTC), pretty(record.answer))
