"""Hooks: a webhook or a command is told how a run fares. Secrets of a hook (`${SLACK_URL}`) are read here, where it is
called, and named nowhere: not in histories, logs or errors."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from pipeline.runs import requests
from pipeline.settings import expanded_text
from pipeline.stores import Store
from schemas.errors import ConnectionFailed, UsageError
from schemas.messages.run import NotifyRequest
from schemas.spec.sections import Notify

_WITHIN_S = 15.0
_SIGNS = {"failed": "✗", "recovered": "✓", "budget": "⏸", "review": "?"}


async def notify(store: Store, request: NotifyRequest) -> None:
    """Call one hook. Raises ConnectionFailed where another attempt may help, UsageError where none will."""
    asked = await asyncio.to_thread(requests.load_request, store, request.ref.run)
    if asked is None:
        raise UsageError(f"The request of run {request.ref.run!r} is gone.")
    spec = await asyncio.to_thread(requests.load_spec_of, store, asked.spec)
    hook, where = spec.notify[request.hook], f"notify[{request.hook}]"
    body = orjson.dumps(payload(request))
    if hook.webhook is not None:
        await _posted(expanded_text(hook.webhook, f"{where}.webhook"), where, body)
    else:
        await _commanded(hook, where, Path(asked.base), body)


def payload(request: NotifyRequest) -> dict[str, Any]:
    """What a hook is given. `text` is all that Slack, and what speaks like it, shows."""
    ref, totals = request.ref, request.totals
    state = "is paused" if request.state == "paused" else "is at work" if request.state == "running" else request.state
    said = {"recovered": "recovered", "failed": "failed"}.get(request.event, state)
    head = f"{_SIGNS.get(request.event, '')} {ref.pipeline}: run {ref.run} {said}"
    return {
        "text": f"{head}. {request.message}".strip(),
        "event": request.event,
        "pipeline": ref.pipeline,
        "run": ref.run,
        "state": request.state,
        "message": request.message,
        "partitions": {
            name: getattr(totals, name)
            for name in ("total", "published", "unchanged", "failed", "cancelled", "not_run")
        },
        "rows": {"in": totals.counts.rows_in, "rejected": totals.counts.rejected, "pending": totals.counts.pending},
        "cost_usd": round(totals.usage.cost_usd, 6),
        "sink": ref.sink,
    }


async def _posted(url: str, where: str, body: bytes) -> None:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_WITHIN_S), trust_env=True) as session,
            session.post(url, data=body, headers={"Content-Type": "application/json"}) as answer,
        ):
            status = answer.status
    except aiohttp.InvalidURL:
        raise UsageError(f"{where}.webhook is no URL.") from None
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise ConnectionFailed(f"{where}: the webhook cannot be reached ({type(exc).__name__}).") from None
    if status in (408, 429) or status >= 500:
        raise ConnectionFailed(f"{where}: the webhook answered {status}.")
    if status >= 300:
        raise UsageError(f"{where}: the webhook refused it ({status}).", hint="Check its URL.")


async def _commanded(hook: Notify, where: str, base: Path, body: bytes) -> None:
    """The document on its standard input, in the spec's folder."""
    command = [expanded_text(part, f"{where}.command") for part in hook.command or []]
    try:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=base, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as exc:
        raise UsageError(f"{where}: the command cannot be started: {exc.strerror}.") from None
    try:
        await asyncio.wait_for(process.communicate(body), _WITHIN_S)
    except TimeoutError:
        raise ConnectionFailed(f"{where}: the command did not end within {_WITHIN_S:.0f} s.") from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise ConnectionFailed(f"{where}: the command ended with {process.returncode}.")
