"""The requests of a journal's calls, kept once each, so that people can see the prompt behind a cell.

What many requests have in common (system text, examples, schema, tools, parameters) is kept once for all of them.
"""

import hashlib
from dataclasses import dataclass, field

from stages.journal.records import CallRecord, CommonRecord, RequestRecord


@dataclass(frozen=True)
class RequestText:
    """A request as JSON texts: `common`, an object with `messages`, `model` and `settings`, and `messages`, an array of
    the messages after those."""

    common: bytes
    messages: bytes


@dataclass
class KeptRequests:
    """The digests of requests, and of common parts, that a journal has."""

    _requests: set[str] = field(default_factory=set)
    _commons: set[str] = field(default_factory=set)

    def has(self, record: RequestRecord | CommonRecord) -> None:
        """Note a record that the journal has."""
        if isinstance(record, RequestRecord):
            self._requests.add(record.request)
        else:
            self._commons.add(record.common)

    def records_of(self, call: CallRecord, text: RequestText) -> list[RequestRecord | CommonRecord]:
        """Return the records that the journal lacks of a call's request."""
        if call.request in self._requests:
            return []
        common = hashlib.blake2b(text.common, digest_size=16).hexdigest()
        records: list[RequestRecord | CommonRecord] = []
        if common not in self._commons:
            records.append(CommonRecord(common, text.common.decode(), call.run, call.at))
        request = RequestRecord(call.request, call.id, common, text.messages.decode(), call.run, call.at)
        return [*records, request]
