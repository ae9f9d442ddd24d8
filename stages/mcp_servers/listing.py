"""Tools of a server as it lists them, and the results of their calls."""

import json
from dataclasses import dataclass
from typing import Any


class ConnectionLost(Exception):
    """The server ended, or is out of reach; a call that was under way may have been done, or not."""


@dataclass(frozen=True)
class ListedTool:
    """`schema`: the JSON schema of its arguments, as canonical text."""

    name: str
    description: str
    schema: str

    @property
    def parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.schema)
        return found


@dataclass(frozen=True)
class CallResult:
    text: str
    failed: bool = False
