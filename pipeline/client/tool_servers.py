"""Start the MCP servers of a spec, list their tools and end them again: that they can be used, before a run."""

from pathlib import Path
from typing import Any

from schemas.errors import ConnectionFailed, FatalModelError
from schemas.spec.sections import Spec
from schemas.spec.tools import names_in
from stages.mcp_servers.sessions import close_servers, session_of


async def listed_servers(spec: Spec, base: Path) -> dict[str, dict[str, Any]]:
    """Return the transport and the tools of each server that a stage names; `spec` has its variables expanded. Raises
    ConnectionFailed for one that cannot be started or reached."""
    named = dict.fromkeys(name for stage in spec.stages for name in names_in(stage.tools, "mcp"))
    found: dict[str, dict[str, Any]] = {}
    try:
        for name in named:
            server = spec.mcp[name]
            tools = await session_of(name, server, base).tools()
            found[name] = {"transport": server.transport, "tools": [tool.name for tool in tools]}
    except FatalModelError as exc:
        raise ConnectionFailed(exc.message, hint=exc.hint) from exc
    finally:
        await close_servers()
    return found
