"""What the journal takes in the sink, with the requests of its calls and with their digests only.

Rows of some 600 characters, of words that repeat as those of tickets do, answered by the offline model; after the merge
that follows a commit.
"""

import asyncio
import random
import tempfile
from pathlib import Path

import polars as pl

from schemas import ids
from tests.pipeline.jobs import Bench

ROWS = 5_000
_WORDS = [
    "invoice",
    "wrong",
    "the",
    "is",
    "a",
    "not",
    "customer",
    "angry",
    "refund",
    "order",
    "late",
    "damaged",
    "box",
    "parcel",
    "address",
    "changed",
    "please",
    "today",
    "account",
    "login",
    "password",
    "reset",
    "email",
    "number",
    "phone",
    "call",
    "support",
    "agent",
    "waiting",
    "days",
    "week",
    "again",
    "still",
    "never",
    "received",
    "money",
    "charged",
    "twice",
    "card",
    "bank",
    "statement",
    "price",
    "discount",
    "code",
    "expired",
    "subscription",
    "cancel",
    "renew",
    "trial",
    "upgrade",
    "plan",
]
_STAGE = {
    "name": "triage", "uses": "extract", "model": "offline:lexical", "prompt": "{{ text }}",
    "system": "You triage support tickets. Say how urgent each is and what it is about, in a few words. " * 4,
    "output": {"summary": "str", "level": {"type": "int", "ge": 1, "le": 5}},
}  # fmt: skip


def main(rows: int = ROWS) -> str:
    taken = {kept: asyncio.run(_bytes(kept, rows)) for kept in ("keep", "digest")}
    parts = [f"{kept} {size * 1_000_000 / rows / 1e6:,.0f} MB" for kept, size in taken.items()]
    return f"the journal of a million calls of some 600 characters: {', '.join(parts)}"


async def _bytes(kept: str, rows: int) -> int:
    drawn = random.Random(7)
    texts = [f"Ticket {at}: " + " ".join(drawn.choices(_WORDS, k=95)) for at in range(rows)]
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), spec={"stages": [_STAGE], "journal": {"requests": kept}})
        bench.write(pl.DataFrame({"id": range(rows), "text": texts}))
        await bench.run()
        return sum(info.size for info in bench.store.list(ids.JOURNAL) if info.key.endswith(".parquet"))
