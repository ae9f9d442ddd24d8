"""Counts of a text for the `offline:` model, each made on first use."""

import re
from datetime import date
from functools import cached_property

from stages.models.offline.words import (
    ALARM,
    ANY_STOP,
    DATES,
    GREETING,
    MONTHS,
    NUMBER,
    SENTENCE,
    STOP_WORDS,
    WORD,
    stem,
)


class Text:
    """Counts of a text, each made on first use."""

    def __init__(self, raw: str) -> None:
        self.raw = raw.encode("utf-8", "replace").decode().strip()

    @cached_property
    def words(self) -> list[str]:
        return WORD.findall(self.raw)

    @cached_property
    def seen(self) -> dict[str, tuple[int, int]]:
        """Stem to occurrences and first position."""
        seen: dict[str, tuple[int, int]] = {}
        for position, word in enumerate(self.words):
            count, first = seen.get(key := stem(word), (0, position))
            seen[key] = count + 1, first
        return seen

    @cached_property
    def sentences(self) -> list[str]:
        split = [part for part in map(str.strip, SENTENCE.split(self.raw)) if part]
        return [part for part in split if not GREETING.match(part)] or split

    @cached_property
    def topics(self) -> list[str]:
        """The words that carry most, best first: frequent, then long, then early."""
        words = dict.fromkeys(word.lower() for word in self.words if len(word) > 3 and word.isalpha())
        kept = {stem(word): word for word in reversed(words) if word not in ANY_STOP}
        order = {key: (-self.seen[key][0], -min(len(word), 8), self.seen[key][1]) for key, word in kept.items()}
        return [kept[key] for key in sorted(order, key=order.__getitem__)]

    @cached_property
    def intensity(self) -> int:
        """0 to 100; a text without alarm or calm words has 30."""
        loud = sum(word.isupper() and word.isalpha() and len(word) > 3 for word in self.words)
        score = sum(ALARM.get(key, 0) for key in self.seen) + 10 * (min(loud, 2) + min(self.raw.count("!"), 2))
        return min(100, max(0, 30 + score))

    @cached_property
    def numbers(self) -> list[float]:
        found = (re.sub(r",(?=\d{3}(?:\D|$))", "", number).replace(",", ".") for number in NUMBER.findall(self.raw))
        return [float(number) if "." in number else int(number) for number in found]

    @cached_property
    def date(self) -> tuple[str, str] | None:
        """The first real date as ISO, and its time of day."""
        for hit in DATES.finditer(self.raw):
            part = {key[0]: value for key, value in hit.groupdict().items() if value}
            month = int(part["m"]) if part["m"].isdigit() else MONTHS.get(part["m"][:3].lower(), 0)
            try:
                return date(int(part["y"]), month, int(part["d"])).isoformat(), part.get("t", "00:00")
            except ValueError:
                continue
        return None

    @cached_property
    def language(self) -> str | None:
        words = [word.lower() for word in self.words]
        hits = {code: sum(word in stops for word in words) for code, stops in STOP_WORDS.items()}
        best = max(hits, key=hits.__getitem__)
        return best if hits[best] else None

    def summary(self, limit: int = 160) -> str:
        """Return as many whole sentences from the start as fit, at least the beginning of one."""
        summary = ""
        for sentence in self.sentences:
            joined = f"{summary}{'' if summary[-1:] in '.!?:,' else '.'} {sentence}" if summary else sentence
            if summary and len(joined) > limit:
                break
            summary = joined
        return cut(summary, limit)

    def fullest(self) -> list[str]:
        """Sentences by how many of the text's topics they hold, best first."""
        topics = frozenset(self.topics[:8])
        return sorted(self.sentences, key=lambda part: -sum(word.lower() in topics for word in WORD.findall(part)))


def cut(value: str, limit: int) -> str:
    """Cut a text at a word's end if there is one, marked with an ellipsis."""
    if len(value) <= limit:
        return value
    head, _, _ = value[:limit].rpartition(" ")
    return f"{head.rstrip(' ,;:')}…" if head and len(head) < limit else value[:limit]
