"""Model calls that wait for a provider batch job, as batches leave them in the sink.

A file holds the calls of one attempt of a batch, as JSON lines compressed with zstd. Equal calls of several rows stand
once for each of them; a job asks them once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from schemas.compressed_lines import compress, decompress


@dataclass(frozen=True, slots=True)
class ParkedCall:
    """A call whose answer is awaited, of the source row with the identity `row`. `request` and `ordinal` are its key in
    the journal; `capped` is the request under which an answer is stored that was cut off. `pool` names the model,
    address and account whose jobs may hold it. `body` is the request in the provider's own form; `common` and
    `messages` are its texts for the journal, empty where requests are not kept. `cap` is the most tokens of the answer,
    None where there is none; `most_nano_usd` and `most_tokens` are what it may cost at the batch price; `size` is its
    bytes (0: those of the body), `media` is True where it holds more than text, `images` of it. `print` is the row's
    fingerprint; `wave` counts the times that its partition has waited for jobs before."""

    request: str
    ordinal: int
    capped: str
    row: str
    stage: str
    model: str
    pool: str
    body: dict[str, Any]
    common: str = ""
    messages: str = ""
    cap: int | None = None
    most_nano_usd: int = 0
    most_tokens: int = 0
    print: str = ""
    size: int = 0
    media: bool = False
    images: int = 0
    wave: int = 0


_FIELDS = frozenset(ParkedCall.__dataclass_fields__)


def encode(calls: Iterable[ParkedCall]) -> bytes:
    """Return the content of a file of parked calls."""
    return compress(map(orjson.dumps, calls))


def decode(content: bytes) -> list[ParkedCall]:
    """Return the calls of a file. Fields that a later version has added are left out. Raises ValueError."""
    found = map(orjson.loads, decompress(content, "the file of parked calls"))
    return [ParkedCall(**{name: value for name, value in call.items() if name in _FIELDS}) for call in found]
