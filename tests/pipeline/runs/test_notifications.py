"""Hooks: who is told of what, over which way, and that neither their failures nor their secrets touch the run."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError

from pipeline.runs import finalise, requests
from pipeline.runs.notifications import notify
from pipeline.stores import MemoryStore
from schemas.errors import ConnectionFailed, SpecError, UsageError
from schemas.manifest import Counts
from schemas.messages.base import RunRef, RunState
from schemas.messages.partition import OpenRequest
from schemas.messages.run import FinaliseRequest, NotifyRequest, RunResult, Totals
from schemas.plan import Selection
from schemas.spec.sections import Spec
from tests.harness.servers import TemporalServer
from tests.pipeline.fakes import Fakes, at_work, ended, failed, planned
from tests.pipeline.jobs import EXTRACT

ALL = ("failed", "recovered", "budget", "review")


def asked(store: MemoryStore, base: Path, *hooks: dict[str, Any]) -> RunRef:
    """A run whose spec has these hooks."""
    spec = Spec.model_validate(
        {"name": "tests", "source": {"path": "x.parquet"}, "stages": [EXTRACT], "sink": {"path": "out"},
         "notify": [{"on": list(ALL), **hook} for hook in hooks]}
    )  # fmt: skip
    requests.write_request(store, spec, base, Selection(), "run-1")
    return RunRef(pipeline="tests", run="run-1", sink=store.uri)


# The workflow says when ---------------------------------------------------------------------------------------------


async def heard(server: TemporalServer, fakes: Fakes, **ended_as: Any) -> list[NotifyRequest]:
    """What hooks are told of a run. The second wants to hear of nothing that happens here."""

    async def finalise(request: FinaliseRequest, nth: int) -> RunResult:
        return RunResult.model_validate(
            {"state": request.state, "report": "r", "totals": request.totals, "stop": request.stop,
             "hooks": (ALL, ("budget",)), **ended_as}
        )  # fmt: skip

    fakes.on["finalise"] = finalise
    client = await Client.connect(server.address, data_converter=pydantic_data_converter)
    async with at_work(client, fakes) as bench:
        result = await ended(await bench.start())
        assert result.report == "r"
    return fakes.of("notify")


async def test_a_run_that_failed_is_told_with_its_first_reason(temporal_server: TemporalServer) -> None:
    async def broken(request: OpenRequest, nth: int) -> None:
        raise failed("InputChanged", "the source moved")

    (told,) = await heard(temporal_server, Fakes([planned("a=1", "a=2")], on={"open:a=2": broken}))
    assert (told.hook, told.event, told.state, told.message) == (0, "failed", "failed", "the source moved")
    assert (told.totals.published, told.totals.failed) == (1, 1)


async def test_a_run_that_succeeds_after_a_failure_is_told_and_any_other_is_not(
    temporal_server: TemporalServer,
) -> None:
    (told,) = await heard(temporal_server, Fakes([planned("a=1")]), recovered=True)
    assert (told.event, told.state) == ("recovered", "completed")
    assert await heard(temporal_server, Fakes([planned("a=1")])) == []


async def test_rows_that_wait_for_a_person_are_told(temporal_server: TemporalServer) -> None:
    parked = Totals(total=1, published=1, counts=Counts(rows_in=5, ok=2, pending=3))
    (told,) = await heard(temporal_server, Fakes([planned("a=1")]), totals=parked)
    assert (told.event, told.message) == ("review", "3 rows wait for a person.")


async def test_a_hook_that_cannot_be_told_changes_nothing(temporal_server: TemporalServer) -> None:
    async def deaf(request: NotifyRequest, nth: int) -> None:
        raise ApplicationError("the webhook answered 500", type="ConnectionFailed", non_retryable=nth > 1)

    fakes = Fakes([planned("a=1")], on={"notify": deaf})
    assert len(await heard(temporal_server, fakes, recovered=True)) == 2, "it was tried again"


def test_a_recovery_is_told_once_and_asked_twice_the_same() -> None:
    store = MemoryStore("recoveries")

    def finalised(run: str, state: RunState) -> bool:
        ref = RunRef(pipeline="tests", run=run, sink=store.uri)
        request = FinaliseRequest(ref=ref, plan="", state=state, totals=Totals(), started_at=dt.datetime.now(dt.UTC))
        return finalise.finalise(store, request).recovered

    assert not finalised("one", "completed")
    assert not finalised("two", "failed")
    assert not finalised("cut", "cancelled"), "says nothing of the pipeline"
    assert finalised("three", "completed")
    assert finalised("three", "completed"), "an activity's second attempt"
    assert not finalised("four", "completed")


# The worker says it -------------------------------------------------------------------------------------------------


@dataclass
class Webhook:
    """Answers with `statuses`, the last of them for ever."""

    url: str = ""
    statuses: list[int] = field(default_factory=lambda: [200])
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        return web.Response(status=self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])


@pytest.fixture
async def webhook() -> AsyncIterator[Webhook]:
    found = Webhook()
    app = web.Application()
    app.router.add_post("/hooks/s3cret", found.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    found.url = f"http://127.0.0.1:{port}/hooks/s3cret"
    yield found
    await runner.cleanup()


def failure(ref: RunRef, hook: int = 0) -> NotifyRequest:
    totals = Totals(total=3, published=2, failed=1, counts=Counts(rows_in=30, ok=29, rejected=1))
    return NotifyRequest(ref=ref, hook=hook, event="failed", state="failed", message="It broke.", totals=totals)


async def test_a_webhook_is_given_json_that_slack_understands(
    webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore("webhooks")
    ref = asked(store, tmp_path, {"webhook": "${TEST_HOOK}"})
    monkeypatch.setenv("TEST_HOOK", webhook.url)
    await notify(store, failure(ref))
    (body,) = webhook.bodies
    assert body["text"] == "✗ tests: run run-1 failed. It broke."
    assert (body["event"], body["pipeline"], body["run"], body["state"]) == ("failed", "tests", "run-1", "failed")
    assert (body["partitions"]["failed"], body["rows"], body["sink"]) == (
        1, {"in": 30, "rejected": 1, "pending": 0}, store.uri,
    )  # fmt: skip
    kept = b"".join(store.get(info.key) for info in store.list(""))
    assert b"s3cret" not in kept, "the store has the variable's name, not its value"
    assert b"${TEST_HOOK}" in kept


@pytest.mark.parametrize(("status", "kind"), [(500, ConnectionFailed), (429, ConnectionFailed), (404, UsageError)])
async def test_what_may_pass_is_tried_again_and_no_secret_is_said(
    webhook: Webhook, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, kind: type[Exception]
) -> None:
    store = MemoryStore("statuses")
    webhook.statuses = [status]
    ref = asked(store, tmp_path, {"webhook": webhook.url})
    caplog.set_level(logging.DEBUG)
    with pytest.raises(kind) as refused:
        await notify(store, failure(ref))
    assert str(status) in str(refused.value)
    assert "s3cret" not in str(refused.value) + caplog.text


async def test_hooks_that_cannot_be_called_are_named_without_their_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore("unreachable")
    monkeypatch.delenv("TEST_HOOK", raising=False)
    nobody = "http://127.0.0.1:9/s3cret"
    ref = asked(
        store, tmp_path, {"webhook": "${TEST_HOOK}"}, {"webhook": nobody}, {"webhook": "s3cret"},
        {"command": ["./no-such-program"]}, {"command": [sys.executable, "-c", "raise SystemExit(3)"]},
    )  # fmt: skip
    for hook, kind, sentence in (
        (0, SpecError, "notify[0].webhook: the environment variable TEST_HOOK is not set."),
        (1, ConnectionFailed, "notify[1]: the webhook cannot be reached"),
        (2, UsageError, "notify[2].webhook is no URL."),
        (3, UsageError, "notify[3]: the command cannot be started: No such file or directory."),
        (4, ConnectionFailed, "notify[4]: the command ended with 3."),
    ):
        with pytest.raises(kind) as refused:
            await notify(store, failure(ref, hook))
        assert sentence in str(refused.value)
        assert "s3cret" not in str(refused.value)


async def test_a_command_reads_the_document_in_the_specs_folder(tmp_path: Path) -> None:
    store = MemoryStore("commands")
    copy = "import sys, pathlib; pathlib.Path('told.json').write_bytes(sys.stdin.buffer.read())"
    await notify(store, failure(asked(store, tmp_path, {"command": [sys.executable, "-c", copy]})))
    assert json.loads((tmp_path / "told.json").read_text())["message"] == "It broke."


@pytest.mark.parametrize(
    "hook", [{"on": ["failed"]}, {"on": [], "webhook": "x"}, {"on": ["failed"], "webhook": "x", "command": ["y"]}]
)
def test_a_hook_is_one_thing_and_for_something(hook: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Spec.model_validate(
            {"name": "tests", "source": {"path": "x"}, "stages": [EXTRACT], "sink": {"path": "out"}, "notify": [hook]}
        )
