"""`tandem ui`: serve the page for people until it is interrupted."""

import asyncio
import contextlib
import importlib.util
import sys
import webbrowser
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.cli.commands.stopping import stop_on_signals
from pipeline.cli.screen.console import Screen
from pipeline.settings import current
from schemas.errors import UsageError


@dataclass(frozen=True)
class UiFlags:
    """The flags of `tandem ui`; `acts` None where neither --allow-acts nor --read-only was given."""

    sinks: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int | None = None
    acts: bool | None = None
    allowed_hosts: tuple[str, ...] = ()
    reviewer_header: str | None = None
    open: bool = True


async def ui_command(flags: UiFlags, screen: Screen) -> int:
    """Serve the page, print its URL, and open it if a person is there."""
    stop = stop_on_signals()
    async with page(flags) as url:
        print(url, flush=True)
        screen.note(f"The page of {Path.cwd()}. Ctrl-C stops it.")
        if flags.open and sys.stdout.isatty():
            await asyncio.to_thread(webbrowser.open, url)
        await stop.wait()
    return 0


@contextlib.asynccontextmanager
async def page(flags: UiFlags) -> AsyncIterator[str]:
    """Serve the page of this folder while the block runs; yields its URL. Raises UsageError, StoreError."""
    if not is_installed():
        raise UsageError(
            "The page needs Starlette and uvicorn, which are not installed.",
            hint="Install them with: pip install 'tandem-pipeline[ui]'",
        )
    from pipeline.web.serving import PageOptions, serving  # what the extra `ui` brings

    options = PageOptions(
        sinks=flags.sinks,
        host=flags.host,
        port=flags.port,
        acts=flags.acts,
        allowed_hosts=flags.allowed_hosts,
        reviewer_header=flags.reviewer_header,
        token=current().token_of_page(),
    )
    async with serving(Path.cwd(), options) as url:
        yield url


def is_installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("starlette", "uvicorn"))
