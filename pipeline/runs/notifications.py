"""Notifications: a webhook or a command gets the events of a run. Secrets of a hook (`${SLACK_URL}`) are read here,
where it is called, and appear nowhere else: not in histories, logs or errors."""

import asyncio
from pathlib import Path
from typing import Any

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
    """Call one hook. Raises ConnectionFailed if another attempt may help, UsageError if none will."""
    run_request = await asyncio.to_thread(requests.load_request, store, request.ref.run)
    if run_request is None:
        raise UsageError(f"The request of run {request.ref.run!r} is gone.")
    spec = await asyncio.to_thread(requests.load_spec_of, store, run_request.spec)
    hook, field = spec.notify[request.hook], f"notify[{request.hook}]"
    body = orjson.dumps(payload(request))
    if hook.webhook is not None:
        await _post(expanded_text(hook.webhook, f"{field}.webhook"), field, body)
    else:
        await _run_command(hook, field, Path(run_request.base), body)


def payload(request: NotifyRequest) -> dict[str, Any]:
    """Return the body for a hook. Slack and compatible services show only `text`."""
    ref, totals = request.ref, request.totals
    state = "is paused" if request.state == "paused" else "is at work" if request.state == "running" else request.state
    result = {"recovered": "recovered", "failed": "failed"}.get(request.event, state)
    head = f"{_SIGNS.get(request.event, '')} {ref.pipeline}: run {ref.run} {result}"
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


async def _post(url: str, field: str, body: bytes) -> None:
    import aiohttp  # 0.3 s, which a command that calls no hook need not wait for

    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_WITHIN_S), trust_env=True) as session,
            session.post(url, data=body, headers={"Content-Type": "application/json"}) as answer,
        ):
            status = answer.status
    except aiohttp.InvalidURL:
        raise UsageError(f"{field}.webhook is no URL.") from None
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise ConnectionFailed(f"{field}: the webhook cannot be reached ({type(exc).__name__}).") from None
    if status in (408, 429) or status >= 500:
        raise ConnectionFailed(f"{field}: the webhook answered {status}.")
    if status >= 300:
        raise UsageError(f"{field}: the webhook refused it ({status}).", hint="Check its URL.")


async def _run_command(hook: Notify, field: str, base: Path, body: bytes) -> None:
    """Run the command in the spec's folder, with the body on its standard input."""
    command = [expanded_text(part, f"{field}.command") for part in hook.command or []]
    try:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=base, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as exc:
        raise UsageError(f"{field}: the command cannot be started: {exc.strerror}.") from None
    try:
        async with asyncio.timeout(_WITHIN_S):
            await process.communicate(body)
    except TimeoutError:
        raise ConnectionFailed(f"{field}: the command did not end within {_WITHIN_S:.0f} s.") from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise ConnectionFailed(f"{field}: the command ended with {process.returncode}.")
