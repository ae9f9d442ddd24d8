"""Known answers: the records of the journal that count, whatever the order in which they are read."""

from collections.abc import Iterable

from stages.journal.records import (
    AnswerRecord,
    CallKey,
    CallRecord,
    CommonRecord,
    NodeRecord,
    QuestionKey,
    Record,
    RequestRecord,
    RowKey,
    RowRecord,
    VoidRecord,
)


class Known:
    """Answers that a batch can use without paying: those found by `open`, those of earlier attempts, and those that are
    added while it runs."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.rows: dict[RowKey, RowRecord] = {}
        self.calls: dict[CallKey, CallRecord] = {}
        self.answers: dict[RowKey, dict[QuestionKey, AnswerRecord]] = {}
        self.nodes: dict[RowKey, dict[str, NodeRecord]] = {}
        self._voided: dict[RowKey | CallKey, float] = {}
        self._answers_voided: dict[RowKey, float] = {}
        # Records that lost against another of their key: they count if that one is voided.
        self._others: dict[RowKey | CallKey, list[RowRecord | CallRecord | NodeRecord]] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Add a record. An answer wins over rejects and questions, a later one of these over an earlier, the first
        answer over later ones; of people's answers, the last counts. The result does not depend on the order of
        records."""
        if isinstance(record, RequestRecord | CommonRecord):
            return  # for people, not for a batch
        if isinstance(record, VoidRecord):
            self._void(record)
            return
        if isinstance(record, AnswerRecord):
            answers = self.answers.setdefault(record.key, {})
            before = answers.get((record.question, record.ordinal))
            if before is None or (record.at, record.nonce) > (before.at, before.nonce):
                answers[record.question, record.ordinal] = record
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
        """Return the time until which records of this kind and key are void."""
        if isinstance(record, AnswerRecord | VoidRecord | RequestRecord | CommonRecord):
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
        known += [self.calls.pop(call_key, None) for call_key in record.calls]
        for key in keys:
            known += self._others.pop(key, ())
        for other in known:
            if other is not None:
                self.add(other)


def _precedence(record: RowRecord) -> tuple[bool, float]:
    is_ok = record.status == "ok"
    return is_ok, -record.at if is_ok else record.at
