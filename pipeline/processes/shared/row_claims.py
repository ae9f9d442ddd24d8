"""Claims of rows by the processes of a command, and exchange of answers between processes with equal rows."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from pipeline.processes.channel import Channel, ChannelClosed, Message
from schemas.digests import digest
from schemas.errors import TandemError
from schemas.messages.batch import BatchRequest
from stages.execution.equal_rows.single_flight import Shared
from stages.execution.questions import PENDING
from stages.journal.records import RowKey, RowRecord, encode_record, record_of

_LOOK_EVERY_S = 0.05
_MOST = 500_000  # rows whose process is remembered; a row equal to an older one is called again


@dataclass
class ClaimedRows:
    """The supervisor's side: row → the number of its process."""

    channels: dict[int, Channel]
    _owners: dict[str, int] = field(default_factory=dict)

    def claim(self, member: int, message: Message) -> Message:
        """Claim rows. Returns the positions of those that belong to another living process."""
        elsewhere: list[int] = []
        for index, key in enumerate(message.data["keys"]):
            name = f"{message.data['scope']}{key[0]}{key[1]}"
            if self._owners.get(name, member) != member and self._owners[name] in self.channels:
                elsewhere.append(index)
            else:
                self._owners[name] = member
        while len(self._owners) > _MOST:
            del self._owners[next(iter(self._owners))]
        return Message(elsewhere)

    async def result(self, member: int, message: Message) -> Message:
        """Return the record of another process's row, after a wait if needed; else the requester gets the row."""
        key = message.data["key"]
        name = f"{message.data['scope']}{key[0]}{key[1]}"
        owner = self.channels.get(self._owners.get(name, member))
        if owner is not None and self._owners.get(name) != member:
            try:
                found = await owner.request("find", message.data)
                if found.body:
                    return found
            except ChannelClosed:
                pass
        self._owners[name] = member
        return Message()


@dataclass
class ChildClaims:
    """A child's side, for all its batches."""

    channel: Channel
    _shared: WeakValueDictionary[str, Shared] = field(default_factory=WeakValueDictionary)

    def of(self, request: BatchRequest, shared: Shared) -> "BatchClaims":
        scope = digest(request.ref.sink, request.ref.run)
        self._shared[scope] = shared
        return BatchClaims(self.channel, scope, shared)

    async def find(self, message: Message) -> Message:
        """Return a record for another process: of a row that is done, in flight, or still to come."""
        key: RowKey = (message.data["key"][0], message.data["key"][1])
        while (shared := self._shared.get(message.data["scope"])) is not None:
            record = shared.recalled(key)
            if record is None and (leader := shared.rows.get(key)) is not None:
                try:
                    record = await asyncio.shield(leader)
                except TandemError:
                    break
            if record is not None:
                return Message() if record.status == PENDING else Message(body=encode_record(record))
            if key not in shared.claimed:
                break
            del shared
            await asyncio.sleep(_LOOK_EVERY_S)
        return Message()


@dataclass
class BatchClaims:
    """The claims of one batch."""

    channel: Channel
    scope: str
    shared: Shared

    async def claim(self, keys: Sequence[RowKey]) -> set[RowKey]:
        answer = await self.channel.request("claim", {"scope": self.scope, "keys": keys})
        elsewhere = {keys[index] for index in answer.data}
        self.shared.claimed.update(key for key in keys if key not in elsewhere)
        return elsewhere

    async def result(self, key: RowKey) -> RowRecord | None:
        answer = await self.channel.request("result", {"scope": self.scope, "key": key})
        record = record_of(answer.body) if answer.body else None
        return record if isinstance(record, RowRecord) else None

    def release(self, keys: Sequence[RowKey]) -> None:
        self.shared.claimed.difference_update(keys)
