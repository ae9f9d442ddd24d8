"""The observers of what stages do. Nobody listens by default, and then nothing is computed: those who have something to
report look for an observer first.

    Observer       hears of single events in the whole process, which it counts     `current`
    BatchObserver  hears of the rows of one attempt of one batch                    of a batch's context
    RowObserver    hears of one row's way through the graph of one stage            of a row's scope

    if (seen := observer.current) is not None:
        seen.call_answered(model, usage, cost_usd, tier)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Observer(Protocol):
    """Hears of single events, on any thread; it must return at once, and must not raise."""

    def call_answered(self, model: str, usage: Mapping[str, int], cost_usd: float | None, tier: str) -> None:
        """Hear of a call whose answer is paid for. `usage`: tokens as `input`, `output`, `cached_input`, …;
        `cost_usd` None: its price is unknown; `tier`: the price tier that the answer names, "" if it names none."""

    def call_failed(self, model: str, *, unknown: bool) -> None:
        """Hear of a call without an answer. `unknown`: it may have been billed all the same."""

    def limit_waited(self, seconds: float) -> None:
        """Hear how long a call waited for its turn."""

    def rows_done(self, stage: str, rows: int) -> None:
        """Hear of rows that have an outcome in a stage, from the journal or from its graph."""

    def flush_began(self, journal: object) -> None:
        """Hear that a journal begins to store its records; again, if the store refused them before."""

    def flush_ended(self, journal: object) -> None:
        """Hear that these records are stored."""


class Call(Protocol):
    """A call with its answer, as the journal holds it: `raw` is the answer as JSON, `latency_ms` and `at` (its end) say
    when it was made, `by` who answered."""

    @property
    def model(self) -> str: ...
    @property
    def raw(self) -> str | None: ...
    @property
    def usage(self) -> Mapping[str, int]: ...
    @property
    def cost_usd(self) -> float | None: ...
    @property
    def request_id(self) -> str | None: ...
    @property
    def latency_ms(self) -> int: ...
    @property
    def at(self) -> float: ...
    @property
    def by(self) -> Mapping[str, str] | None: ...


class Prompt(Protocol):
    """A request as JSON: `common` is an object with the model, its settings and the first messages; `messages` an array
    of those after them."""

    @property
    def common(self) -> bytes: ...
    @property
    def messages(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, which took `seconds`. `known`: its result was in the journal, and it did not run."""

    name: str
    id: str
    seconds: float
    failed: bool
    known: bool = False
    arguments: Any = None
    result: str = ""


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """The outcome of a source row in a batch: `status` is ok, rejected, filtered or pending; of a reject its class and
    the stage."""

    id: str
    status: str
    error: str = ""
    stage: str = ""


class RowObserver(Protocol):
    """Hears of one row in one stage, on the batch's loop or in threads of its nodes; it must not raise."""

    def node_began(self, name: str) -> Any:
        """Hear that a node begins, in whose context `node_ended` is called with what this returns."""

    def node_ended(self, node: Any, error: BaseException | None) -> None:
        """Hear that a node ended, by an error if there is one."""

    def call_answered(self, call: Call, prompt: Prompt | None) -> None:
        """Hear of a call that was made."""

    def call_reused(self, call: Call) -> None:
        """Hear of a call whose answer was known, from the journal or from an equal call."""

    def call_failed(self, model: str, seconds: float, error: str) -> None:
        """Hear of a request without an answer. `error`: its class."""

    def tool_ended(self, tool: ToolCall) -> None:
        """Hear of a tool that the row's graph has called."""

    def repair_began(self, problem: str) -> None:
        """Hear that an answer does not fit, so that the next call is to correct it."""

    def ended(self, status: str, error: Mapping[str, Any] | None) -> None:
        """Hear of the row's outcome. Not called for a row that is stopped, and is run again later."""


class BatchObserver(Protocol):
    """Hears of the rows of one attempt of one batch."""

    def row_began(self, stage: str, uses: str, id: str, values: Mapping[str, Any]) -> RowObserver:
        """Hear that the graph of a stage begins for a row. `id`: the row's identity; `values`: what the stage reads."""

    def rows_ended(self, outcomes: Iterable[RowOutcome]) -> None:
        """Hear of the outcomes of all rows of the batch, whose stages have ended."""


current: Observer | None = None


def listen(observer: Observer | None) -> None:
    """Let an observer hear of everything in this process from now on; None: nobody."""
    global current  # noqa: PLW0603  one a process, set once before its work
    current = observer
