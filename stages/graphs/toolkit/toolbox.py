"""The tools of a stage that Tandem calls: functions of the user's, and those of MCP servers, known once these run."""

import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Generic, TypeVar

from langchain_core.tools import BaseTool
from pydantic import SkipValidation

from schemas.errors import FatalModelError, RowError, SpecError
from schemas.spec.tools import names_in
from stages.contract import StageSetup
from stages.graphs.toolkit.tools import load_tools
from stages.mcp_servers.listing import ListedTool
from stages.mcp_servers.session import ServerSession
from stages.mcp_servers.sessions import session_of

_NAME = re.compile(r"[^A-Za-z0-9_-]")  # what no provider takes in the name of a function
Made = TypeVar("Made")


class Toolbox(Generic[Made]):
    """The tools of a stage, and what `make` makes of them. Raises SpecError."""

    def __init__(self, setup: StageSetup, make: Callable[[Sequence[BaseTool]], Made]) -> None:
        self._setup = setup
        self._make = make
        self._own = load_tools(setup)
        self._names = names_in(setup.stage.tools, "mcp")
        if self._names:
            _refuse_without_package(setup)
        self._made_of: tuple[list[ServerSession], list[tuple[ListedTool, ...]]] = ([], [])
        self._open: tuple[Sequence[BaseTool], Made] | None = None if self._names else (self._own, make(self._own))

    async def open(self) -> tuple[Sequence[BaseTool], Made]:
        """Return the tools, those of servers too, which are started. Raises FatalModelError for one that cannot be."""
        if not self._names and self._open is not None:
            return self._open
        setup = self._setup
        sessions = [session_of(name, setup.spec.mcp[name], setup.base) for name in self._names]
        listed = [await session.tools() for session in sessions]
        if self._open is None or self._made_of != (sessions, listed):
            tools = self._all(sessions, listed)
            self._made_of, self._open = (sessions, listed), (tools, self._make(tools))
        return self._open

    def _all(self, sessions: Sequence[ServerSession], listed: Sequence[Sequence[ListedTool]]) -> list[BaseTool]:
        tools = list(self._own)
        for name, session, of_server in zip(self._names, sessions, listed, strict=True):
            for one in of_server:
                tool = ServerTool.of(session, one)
                if tool.name in {known.name for known in tools}:
                    raise FatalModelError(
                        f"{self._setup.where}: tools: mcp:{name}: another tool is called {tool.name!r}, too.",
                        hint=f"Name those that may be called: mcp: {{{name}: {{…, tools: […]}}}}",
                    )
                tools.append(tool)
        return tools


class ServerTool(BaseTool):
    """A tool of an MCP server. Its arguments may have any name: LangChain's own classes keep `config` and `run_manager`
    for themselves."""

    session: SkipValidation[ServerSession]
    listed: ListedTool

    @classmethod
    def of(cls, session: ServerSession, listed: ListedTool) -> "ServerTool":
        schema = {"type": "object", "properties": {}, **listed.parameters}  # a server may leave out both
        name, description = _NAME.sub("_", listed.name)[:64], listed.description or listed.name
        return cls(name=name, description=description, args_schema=schema, session=session, listed=listed)

    async def _arun(self, /, *_: Any, **arguments: Any) -> str:
        result = await self.session.call(self.listed.name, arguments)
        if result.failed:
            raise RowError(result.text, kind="tool_failed")  # which is reported to the model
        return result.text

    def _run(self, /, *_: Any, **arguments: Any) -> str:
        raise NotImplementedError("a server is asked by the event loop")


def _refuse_without_package(setup: StageSetup) -> None:
    try:
        distribution("mcp")
    except PackageNotFoundError:
        raise SpecError(
            f"{setup.where}: tools: MCP servers need a package that is not installed.",
            hint="pip install 'tandem-pipeline[mcp]'",
        ) from None
