"""Search in local text files: passages ranked by BM25. It needs no index, no network, and always finds the same."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from schemas.digests import digest
from schemas.errors import SpecError
from stages.text.chunks import chunked
from stages.text.words import ANY_STOP, WORD, stem

PASSAGE_TOKENS = 200
MAX_BYTES = 100_000_000
ENDINGS = frozenset((".txt", ".md", ".rst"))
_K1, _B = 1.5, 0.75


@dataclass(frozen=True)
class Passage:
    source: str
    text: str


class Corpus:
    """Passages, and where each word is in them."""

    def __init__(self, files: dict[str, str]) -> None:
        self.digest = digest(*(part for item in sorted(files.items()) for part in item))
        self.passages = [
            Passage(name, chunk.strip())
            for name, text in sorted(files.items())
            for chunk in chunked(text, PASSAGE_TOKENS)
            if chunk.strip()
        ]
        self._where: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._lengths: list[int] = []
        for at, passage in enumerate(self.passages):
            words = Counter(_words(passage.text))
            self._lengths.append(words.total())
            for word, count in words.items():
                self._where[word].append((at, count))

    def search(self, query: str, most: int) -> list[Passage]:
        """The passages that fit best, best first; none where no word of the query is anywhere."""
        mean = sum(self._lengths) / len(self._lengths) if self._lengths else 1.0
        scores: dict[int, float] = defaultdict(float)
        for word in dict.fromkeys(_words(query)):
            found = self._where.get(word, [])
            rare = math.log(1 + (len(self.passages) - len(found) + 0.5) / (len(found) + 0.5))
            for at, count in found:
                long = _K1 * (1 - _B + _B * self._lengths[at] / mean)
                scores[at] += rare * count * (_K1 + 1) / (count + long)
        best = sorted(scores, key=lambda at: (-scores[at], at))[:most]
        return [self.passages[at] for at in best]


def _words(text: str) -> list[str]:
    return [stem(word) for word in WORD.findall(text) if word.casefold() not in ANY_STOP]


def load_corpus(base: Path, path: str, where: str) -> Corpus:
    """The text files of a folder, or those that a glob finds, below the spec's folder. Raises SpecError."""
    root = base / path
    found = [root] if root.is_file() else sorted(root.rglob("*") if root.is_dir() else base.glob(path))
    files = [file for file in found if file.is_file() and file.suffix.lower() in ENDINGS]
    if not files:
        raise SpecError(
            f"{where}: with.corpus = {path!r} has no text files ({', '.join(sorted(ENDINGS))}).",
            hint="Give a folder or a glob, relative to the spec.",
        )
    size = sum(file.stat().st_size for file in files)
    if size > MAX_BYTES:
        raise SpecError(
            f"{where}: with.corpus = {path!r} has {size:,} bytes, more than {MAX_BYTES:,}.",
            hint="Name a search of yours instead: tools: [module:function].",
        )
    return _loaded(tuple((str(file), file.stat().st_mtime_ns) for file in files), str(base))


@lru_cache(maxsize=4)
def _loaded(files: tuple[tuple[str, int], ...], base: str) -> Corpus:
    texts = {}
    for name, _ in files:
        path = Path(name)
        shown = str(path.relative_to(base)) if path.is_relative_to(base) else path.name
        texts[shown] = path.read_text("utf-8", "replace")
    return Corpus(texts)
