"""What is known already: which of the journal's records count, whatever the order in which they are read."""

from collections.abc import Iterable

from stages.journal.records import (
    AnswerRecord,
    CallKey,
    CallRecord,
    NodeRecord,
    QuestionKey,
    Record,
    RowKey,
    RowRecord,
    VoidRecord,
)


class Known:
    """Answers that a batch can take for nothing: those that `open` found, those of its earlier attempts, and those that
    are added while it runs."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.rows: dict[RowKey, RowRecord] = {}
        self.calls: dict[CallKey, CallRecord] = {}
        self.answers: dict[RowKey, dict[QuestionKey, AnswerRecord]] = {}
        self.nodes: dict[RowKey, dict[str, NodeRecord]] = {}
        self._voided: dict[RowKey | CallKey, float] = {}
        self._answers_voided: dict[RowKey, float] = {}
        # Those that others of their key won over: they count where those are voided.
        self._others: dict[RowKey | CallKey, list[RowRecord | CallRecord | NodeRecord]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """An answer wins over rejects and questions, a later one of these over an earlier, the first answer over later
        ones; of what people say, the last word counts. Whatever the order in which facts are read, the same are
        known."""
        if isinstance(record, VoidRecord):
            self._void(record)
            return
        if isinstance(record, AnswerRecord):
            said = self.answers.setdefault(record.key, {})
            before = said.get((record.question, record.ordinal))
            if before is None or (record.at, record.nonce) > (before.at, before.nonce):
                said[record.question, record.ordinal] = record
            return
        if record.at <= self.voided(record):
            return
        if isinstance(record, CallRecord):
            call = self.calls.get(record.key)
            if record.raw is not None and (call is None or record.at < call.at):
                self.calls[record.key] = record
                self._keep_other(call)
            elif record.raw is not None and record != call:
                self._keep_other(record)
            return
        if isinstance(record, NodeRecord):
            nodes = self.nodes.setdefault(record.key, {})
            first = nodes.get(record.where)
            if first is None or record.at < first.at:
                nodes[record.where] = record
                self._keep_other(first)
            elif record != first:
                self._keep_other(record)
            return
        row = self.rows.get(record.key)
        if row is None or _precedence(record) > _precedence(row):
            self.rows[record.key] = record
            self._keep_other(row)
        elif record != row:
            self._keep_other(record)

    def voided(self, record: Record) -> float:
        """Until when what is of this record's kind and key counts no more."""
        if isinstance(record, AnswerRecord | VoidRecord):
            return 0.0
        if isinstance(record, RowRecord) and record.status == "ok":
            return self._answers_voided.get(record.key, 0.0)
        return self._voided.get(record.key, 0.0)

    def _keep_other(self, record: RowRecord | CallRecord | NodeRecord | None) -> None:
        if record is not None:
            self._others.setdefault(record.key, []).append(record)

    def _void(self, record: VoidRecord) -> None:
        keys: tuple[RowKey | CallKey, ...] = (record.key, *record.calls)
        for key in keys:
            self._voided[key] = max(record.at, self._voided.get(key, 0.0))
        if record.answer:
            self._answers_voided[record.key] = max(record.at, self._answers_voided.get(record.key, 0.0))
        known: list[RowRecord | CallRecord | NodeRecord | None] = [self.rows.pop(record.key, None)]
        known += self.nodes.pop(record.key, {}).values()
        known += [self.calls.pop(asked, None) for asked in record.calls]
        for key in keys:
            known += self._others.pop(key, ())
        for other in known:
            if other is not None:
                self.add(other)


def _precedence(record: RowRecord) -> tuple[bool, float]:
    answered = record.status == "ok"
    return answered, -record.at if answered else record.at
