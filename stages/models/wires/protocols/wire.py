"""The protocol of a provider as the chat model sees it: a request becomes a body, an answer a chat result. No I/O.

Requests have one canonical form, that of a Chat Completions body, in which they are digested too
(`stages.models.request`): `model`, `messages`, `tools`, `tool_choice`, `response_format`, `stop` and the parameters.
What a wire does not know it sends as it is, so a new parameter of a provider needs no change here.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from langchain_core.outputs import ChatResult

Request = Mapping[str, Any]
# How a provider is told of a declared output: its own schema mode, a forced tool, or words.
SchemaMode = Literal["format", "tool", "words"]


class Wire(Protocol):
    """One provider's protocol. Stateless: what a model refuses is learned in `stages.models.wires.dialect`."""

    def path(self, model: str) -> str:
        """Return the path of a call, relative to the base URL."""
        ...

    def headers(self, key: str) -> dict[str, str]:
        """Return the headers of the protocol; `key`: the credential, empty if there is none."""
        ...

    def schema_modes(self, request: Request) -> tuple[SchemaMode, ...]:
        """Return the modes that may work for a request with `response_format`, the best first; `words` is the last."""
        ...

    def body(self, request: Request) -> dict[str, Any]:
        """Return the provider's body of a canonical request."""
        ...

    def result(self, answer: dict[str, Any], headers: Mapping[str, str], model: str) -> ChatResult:
        """Return an answer in LangChain's form. Raises NoAnswer for one that holds no completion."""
        ...

    def rest(self, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any] | None:
        """Return the body that has a paused answer go on; None for a whole one."""
        ...

    def joined(self, first: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
        """Return an answer that paused and what came after it as one, their usage added."""
        ...

    def failure(self, answer: dict[str, Any]) -> tuple[int, str] | None:
        """Return the status and the body of a failure that was sent as a success; None for a completion."""
        ...


class WholeAnswers:
    """A protocol whose answers never pause."""

    def rest(self, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any] | None:
        return None

    def joined(self, first: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("no answer of this protocol pauses")
