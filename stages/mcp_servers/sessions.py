"""The sessions of this process, one with each server, for each event loop."""

import asyncio
from pathlib import Path
from weakref import WeakKeyDictionary

from schemas.spec.tools import McpServer
from stages.mcp_servers.session import ServerSession

_Sessions = dict[tuple[str, str, Path], ServerSession]
_sessions: "WeakKeyDictionary[asyncio.AbstractEventLoop, _Sessions]" = WeakKeyDictionary()


def session_of(name: str, server: McpServer, folder: Path) -> ServerSession:
    """Return the session with a server, which begins at its first use."""
    mine = _sessions.setdefault(asyncio.get_running_loop(), {})
    key = name, server.model_dump_json(), folder
    if key not in mine:
        mine[key] = ServerSession(name, server, folder)
    return mine[key]


async def close_servers() -> None:
    """Close all sessions of this loop; commands end."""
    mine = _sessions.pop(asyncio.get_running_loop(), {})
    for session in mine.values():
        await session.close()
