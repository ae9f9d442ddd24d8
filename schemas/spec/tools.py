"""References to tools in a spec, and the MCP servers that it declares.

module:attribute      a function, or a LangChain tool, of the user's
provider:web_search   a tool that the model's provider runs
mcp:NAME              the tools of the MCP server NAME
"""

import re
import shlex
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.spec.durations import Duration
from schemas.spec.section import Section

ToolKind = Literal["function", "provider", "mcp"]
PROVIDER_TOOLS = ("web_search",)
RESERVED = {"provider": "for tools that a provider runs", "mcp": "for the tools of MCP servers"}
SERVER_NAME = re.compile(r"[A-Za-z][\w-]{0,62}\Z", re.ASCII)
MODULE_ATTRIBUTE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


class McpServer(Section):
    """A server of the Model Context Protocol: a `command` that is started beside each worker process, or a `url`."""

    command: list[str] = Field(default=[], description="the program and its arguments; a text is split as by a shell")
    env: dict[str, str] = Field(default={}, description="variables of the command, beside PATH, HOME and the like")
    url: str | None = Field(default=None, pattern=r"^(https?://|\$\{)")
    headers: dict[str, str] = Field(default={}, description="sent with each request to the url")
    tools: list[str] = Field(default=[], description="its tools that models may call; default: all")
    start_timeout: Duration = Field(default=timedelta(seconds=30), gt=timedelta(0))

    @field_validator("command", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return shlex.split(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_transport(self) -> Self:
        if bool(self.command) == (self.url is not None):
            raise ValueError("either command: [program, argument, …], or url: https://…")
        if self.env and self.url is not None:
            raise ValueError("env belongs to command, not to url")
        if self.headers and self.url is None:
            raise ValueError("headers belongs to url, not to command")
        return self

    @property
    def transport(self) -> str:
        return "stdio" if self.command else "streamable HTTP"


def kind_of(reference: str) -> ToolKind:
    prefix = reference.partition(":")[0]
    return "provider" if prefix == "provider" else "mcp" if prefix == "mcp" else "function"


def functions_in(references: Iterable[str]) -> list[str]:
    """Return the references to code of the user's."""
    return [reference for reference in references if kind_of(reference) == "function"]


def names_in(references: Iterable[str], kind: ToolKind) -> list[str]:
    """Return the names after the prefix of the references of a kind."""
    return [reference.partition(":")[2] for reference in references if kind_of(reference) == kind]


def reference_fault(reference: str) -> str | None:
    """Return what is wrong with a reference to a tool; None if nothing is."""
    kind, name = kind_of(reference), reference.partition(":")[2]
    if kind == "provider" and name not in PROVIDER_TOOLS:
        known = ", ".join(f"provider:{known}" for known in PROVIDER_TOOLS)
        return f"{reference!r} is no tool that providers run: {known}; a module of yours may not be called provider"
    if kind == "mcp" and not SERVER_NAME.match(name):
        return f"{reference!r} is not mcp:NAME, of letters, digits, _ and -, starting with a letter"
    if kind == "function" and not MODULE_ATTRIBUTE.match(reference):
        return f"{reference!r} is not module:attribute, provider:NAME or mcp:NAME"
    return None


def reserved_fault(reference: str) -> str | None:
    """Return what is wrong with a reference to code of the user's whose module has a reserved name."""
    prefix = reference.partition(":")[0]
    if prefix in RESERVED and ":" in reference:
        return f"{reference!r}: {prefix}: is reserved {RESERVED[prefix]}; rename your module"
    return None
