"""The supervisor's services for a child's batches: a record of their rows that outlives the child, and separate
processes for rows that may kill it."""

import asyncio
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.journal.spool import Spools
from pipeline.processes.channel import Channel, Message
from pipeline.processes.child.activity_watch import activity_slot
from pipeline.processes.child.in_flight import InFlight
from pipeline.processes.child.isolated_rows import packed, unpacked_result
from pipeline.processes.child.memory_limit import MemoryLimit
from pipeline.processes.shared.row_claims import ChildClaims
from schemas.messages.batch import BatchRequest
from stages.contract import GraphStage
from stages.execution.equal_rows.claims import Claims
from stages.execution.equal_rows.single_flight import Shared
from stages.execution.guards.isolation import Attempt, GraphRow
from stages.journal.records import Record, RowKey
from stages.models.row.parking import BatchParking
from stages.models.row.scope import Tally

_LONGEST_ID = 60


class RowNotes:
    """The running rows, in the table that outlives the process. `memory` hears of each that has ended."""

    def __init__(self, in_flight: InFlight, memory: MemoryLimit) -> None:
        self._slots = in_flight.rows
        self._memory = memory

    def began(self, stage: str, key: RowKey, id: str) -> int | None:
        row_note = {"activity": activity_slot.get(), "stage": stage[:_LONGEST_ID], "key": key, "id": id[:_LONGEST_ID]}
        return self._slots.put(row_note)

    def ended(self, number: int | None) -> None:
        self._slots.clear(number)
        self._memory.progress = True


@dataclass
class ChildSupervision:
    """Supervision of a child, which `retire` replaces, for a reason. The supervisor sends `suspected` (the rows in
    flight when a process died) and `everything` (so many died that every row is suspect), which grow while the child
    works. `alone`: no other process works on the same queue."""

    channel: Channel
    watch: RowNotes
    retire: Callable[[str], None]
    memory: MemoryLimit
    suspected: set[RowKey] = field(default_factory=set)
    everything: bool = False
    alone: bool = True
    claims: ChildClaims = field(init=False)

    def __post_init__(self) -> None:
        self.claims = ChildClaims(self.channel)

    def begin(self, max_memory: int | None) -> int:
        self.memory.begin(max_memory)
        return self.memory.room

    def claims_of(self, request: BatchRequest, shared: Shared) -> Claims | None:
        return None if self.alone else self.claims.of(request, shared)

    async def suspect(self, message: Message) -> None:
        self.suspected.update((stage, row) for stage, row in message.data["keys"])
        self.everything = message.data["everything"]

    def stuck(self, row: str) -> None:
        self.retire(f"row {row[:_LONGEST_ID]} took too long, and its thread cannot be stopped")

    def isolation(self, request: BatchRequest, spools: Spools, tally: Tally, row: str = "") -> "BatchIsolation":
        return BatchIsolation(self, request, spools, tally, row)


@dataclass
class BatchIsolation:
    """Processes for the suspected rows of one batch, one after the other, or for one `row` (its fingerprint)."""

    supervision: ChildSupervision
    request: BatchRequest
    spools: Spools
    tally: Tally
    row: str = ""
    _session: str = field(default_factory=lambda: uuid.uuid4().hex)

    def suspects(self, key: RowKey) -> bool:
        return self.supervision.everything or key in self.supervision.suspected

    async def attempt(
        self, stage: GraphStage, rows: Sequence[GraphRow], known: Iterable[Record], parking: BatchParking | None
    ) -> Attempt:
        request = {
            "session": self._session,
            "stage": stage.name,
            "row": self.row,
            "request": self.request.model_dump(mode="json"),
        }
        answer = await self.supervision.channel.request("isolate", request, packed(rows, known, parking))
        records = await asyncio.to_thread(self._take_over)
        result = answer.data
        if "failed" in result:  # the supervisor failed: the batch is tried again
            raise RuntimeError("rows could not be run in a process of their own; see the log of the command")
        self.tally.calls += result.get("calls", 0)
        self.tally.cost_usd += result.get("cost_usd", 0.0)
        in_flight = frozenset((stage_print, row) for stage_print, row in result.get("in_flight", ()))
        stopped, parked = unpacked_result(answer.body)
        return Attempt(records, result.get("death", ""), in_flight, stopped, parked)

    async def over(self) -> None:
        self.supervision.channel.send("isolated", {"session": self._session})

    def _take_over(self) -> list[Record]:
        """Read and remove the records that the process left on disk."""
        records: list[Record] = []
        ref = self.request.ref
        batch = self.request
        for path, found in self.spools.left_by_the_dead(ref.sink, ref.run, batch.partition, batch.batch, row=self.row):
            records += found
            path.unlink(missing_ok=True)
        return records
