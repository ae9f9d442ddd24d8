"""Room for the embedded server's file. Without it the server hangs and reports no error."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from schemas.errors import NoRoom, TandemError

_LEAST_AT_START = 4 << 20  # bytes that a small run writes
_LEAST = 64 << 10  # bytes below which writes of the server begin to fail
_EVERY_S = 2.0


def check_room(home: Path, least: int = _LEAST_AT_START) -> None:
    """Raises NoRoom if fewer than `least` bytes are free where the server keeps its file."""
    existing = next(folder for folder in (home, *home.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if free < least:
        raise NoRoom(
            f"TANDEM_HOME {str(home)!r}, where the embedded Temporal server keeps its file, has {free:,} bytes left, "
            f"but {least:,} are needed.",
            hint="Free some space and give the same command again, or set TANDEM_HOME to a folder on another disk; "
            "nothing that was answered is lost.",
        )


@asynccontextmanager
async def room_watched(home: Path) -> AsyncIterator[None]:
    """Cancel the body once the disk is full. Raises NoRoom then."""
    body = asyncio.current_task()
    assert body is not None
    full: list[NoRoom] = []

    async def watch() -> None:
        while not full:
            await asyncio.sleep(_EVERY_S)
            try:
                await asyncio.to_thread(check_room, home, _LEAST)
            except NoRoom as exc:
                full.append(exc)
                body.cancel()

    watching = asyncio.create_task(watch(), name="room of the embedded server")
    try:
        yield
    except (asyncio.CancelledError, TandemError):  # the body may say of its cancellation that it was interrupted
        if not full:
            raise
        body.uncancel()
        raise full[0] from None
    finally:
        watching.cancel()
