"""One answer of a job as a record of the journal: the same classification, usage and price as a live call's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatResult

from pipeline.provider_jobs.base import JobClient
from schemas.digests import digest
from schemas.errors import FatalModelError, NoAnswer, RowError, TandemError
from schemas.job_requests import AskedKey, custom_id
from schemas.parked import ParkedCall
from stages.journal.records import CallRecord
from stages.limits.prices import tier_price
from stages.models.answers.answerer import answerer_of
from stages.models.answers.usage import usage_of
from stages.models.backend import Backend
from stages.models.calls import message_of, raw_of
from stages.models.failures.errors import describe
from stages.models.failures.no_answers import check_answered
from stages.models.finish import CUT_OFF, finish_of
from stages.models.request import ModelRequest
from stages.models.wires.body import no_completion
from stages.models.wires.http import MAX_ANSWER_BYTES
from stages.models.wires.jobs.form import JobAnswer

_MOST_JOBS = 5  # that may fail with a request before its row is rejected
# Where bodies say that an answer must not be empty: an output is declared, or tools.
_NEEDS_ANSWER = (("response_format",), ("tools",), ("functions",), ("text", "format"), ("output_config", "format"),
                 ("generationConfig", "responseMimeType"))  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What became of a call. `record`: its answer, or that it may have been billed without one; `refused`: the error
    of a reject; `again`: to be asked again, `failed` if the provider tried, `missing` if it sent no result; `fatal`:
    why every other one would fail."""

    record: CallRecord | None = None
    refused: Mapping[str, Any] | None = None
    again: bool = False
    failed: bool = False
    missing: bool = False
    fatal: FatalModelError | None = None


@dataclass(frozen=True)
class Answering:
    """The job whose answers are read. `at`: the time of its records, the same however often they are read, so that they
    are the same to the byte; `early`: it ended before its end, so that a request without a result was never worked on;
    `tries`: in how many jobs a call failed before this one."""

    client: JobClient
    backend: Backend
    run: str
    job: str
    id: str
    at: float
    early: bool
    tries: Callable[[ParkedCall], int]

    def outcome(self, call: ParkedCall, batch: int, answer: JobAnswer | None, size: int) -> Outcome:
        """Return what became of a call of a batch; `size`: the bytes of the answer."""
        blank = self._blank(call, batch)
        if answer is None:
            if self.early:
                return Outcome(again=True)
            return replace(self._failed(call, blank, "the job has no result for it"), missing=True)
        if answer.not_run:
            return Outcome(again=True)
        try:
            if size > MAX_ANSWER_BYTES:
                raise RowError(f"the answer is larger than {MAX_ANSWER_BYTES:,} bytes", kind="oversized_answer")
            return Outcome(self._answered(call, blank, self._result(call, answer), answer))
        except RowError as exc:
            billed = exc.billed or exc.kind == "oversized_answer"
            return Outcome(_unknown(blank, exc.code) if billed else None, refused=describe(exc))
        except FatalModelError as exc:
            return Outcome(again=True, fatal=exc)
        except NoAnswer as exc:
            return self._failed(call, blank if exc.billed else None, exc.message, exc)
        except TandemError as exc:
            return self._failed(call, None, exc.message)

    def _result(self, call: ParkedCall, answer: JobAnswer) -> ChatResult:
        """Return the answer in LangChain's form. Raises RowError, TransientModelError, FatalModelError."""
        try:
            failure = (answer.status, answer.error) if answer.status != 200 else self.client.failure(answer)
            result = self.client.result(answer) if failure is None else None
        except (AttributeError, TypeError, ValueError, KeyError, IndexError) as exc:
            raise no_completion(orjson.dumps(answer.body)) from exc
        if failure is not None:
            raise self.client.model.failure_of(failure[0], failure[1].encode(), {})
        assert result is not None
        return check_answered(result, {"tools": _needs_answer(call.body)})

    def _answered(self, call: ParkedCall, blank: CallRecord, result: ChatResult, answer: JobAnswer) -> CallRecord:
        message = message_of(result)
        size = call.size or len(orjson.dumps(call.body))
        request = ModelRequest(call.request, size, cap=call.cap, media=call.media, images=call.images)
        usage = usage_of(message, request, call.cap or self.backend.cap)
        metadata = message.response_metadata
        return replace(
            blank,
            request=call.capped if call.capped and _was_cut_off(message) else call.request,
            raw=raw_of(message),
            error=None,
            usage=usage,
            cost_usd=tier_price(self.backend.price, "batch")(usage),
            request_id=answer.request_id or metadata.get("request_id") or metadata.get("id"),
            by={**answerer_of(metadata, self.backend.endpoint), **self._paid_by(call)},
        )

    def _failed(
        self, call: ParkedCall, blank: CallRecord | None, why: str, no_answer: NoAnswer | None = None
    ) -> Outcome:
        """Return the outcome of a call that another job may answer; `blank`: it may have been billed."""
        record = None if blank is None else _unknown(blank, why)
        tries = self.tries(call) + 1
        if tries < _MOST_JOBS:
            return Outcome(record, again=True, failed=True)
        kind, raw = (no_answer.kind, no_answer.raw) if no_answer is not None else ("no_answer", None)
        error = RowError(f"no answer in {tries} jobs: {why}", kind=kind, raw=raw)
        return Outcome(record, refused=describe(error))

    def _blank(self, call: ParkedCall, batch: int) -> CallRecord:
        """Return the record of a call whose outcome is not known. Its nonce is the job's and the request's own, so that
        results that are read twice count once."""
        key = call.capped or call.request, call.ordinal
        return CallRecord(
            request=call.request,
            ordinal=call.ordinal,
            id=call.row,
            model=call.model,
            raw=None,
            error={"kind": "unknown", "message": ""},
            usage={},
            cost_usd=None,
            request_id=None,
            latency_ms=0,
            run=self.run,
            batch=batch,
            at=self.at,
            nonce=nonce_of(self.id, self.job, key),
            by=self._paid_by(call),
        )

    def _paid_by(self, call: ParkedCall) -> dict[str, str]:
        return {"tier": "batch", "job": self.id, **({"stage": call.stage} if call.stage else {})}


def nonce_of(id: str, job: str, key: AskedKey) -> str:
    """Return the nonce of the record of a request's answer."""
    return digest(id, custom_id(job, key))


def _unknown(blank: CallRecord, why: str) -> CallRecord:
    return replace(blank, error={"kind": "unknown", "message": why})


def _was_cut_off(message: AIMessage) -> bool:
    return finish_of(message) in CUT_OFF


def _needs_answer(body: Mapping[str, Any]) -> bool:
    return any(_at(body, path) for path in _NEEDS_ANSWER)


def _at(body: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        body = body.get(name) if isinstance(body, Mapping) else None
    return body
