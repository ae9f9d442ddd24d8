"""Search in local text files: passages ranked by BM25. It needs no network, and its results never change."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import snowballstemmer

from schemas.digests import digest
from schemas.errors import SpecError
from stages.text.chunks import chunked

PASSAGE_TOKENS = 200
MAX_BYTES = 100_000_000
_WORD = r"\w+"
ENDINGS = frozenset((".txt", ".md", ".rst"))
LANGUAGES = tuple(snowballstemmer.algorithms())
_WITH_STOP_WORDS = frozenset(  # languages of which bm25s has stop words
    (
        "english", "german", "dutch", "french", "spanish", "portuguese", "italian", "russian", "swedish", "norwegian",
        "danish", "turkish",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Passage:
    source: str
    text: str


class Corpus:
    """Passages, and an index of the words in them. Word endings and stop words are those of `language`."""

    def __init__(self, files: dict[str, str], language: str = "english") -> None:
        import bm25s  # half a second of import, only for searches

        self.digest = digest(*(part for item in sorted(files.items()) for part in item))
        self.passages = [
            Passage(name, chunk.strip())
            for name, text in sorted(files.items())
            for chunk in chunked(text, PASSAGE_TOKENS)
            if chunk.strip()
        ]
        self._language = language
        self._index = bm25s.BM25(k1=1.5, b=0.75, dtype="float64")
        words = self._words([passage.text for passage in self.passages])
        self._known = frozenset(word for found in words for word in found)
        if self._known:
            self._index.index(words, show_progress=False)

    def search(self, query: str, most: int) -> list[Passage]:
        """Return the best matching passages, best first; none if no word of the query occurs."""
        words = [word for word in dict.fromkeys(self._words([query])[0]) if word in self._known]
        if not words:
            return []
        scores = self._index.get_scores(words)
        best = np.argsort(-scores, kind="stable")[:most]
        return [self.passages[index] for index in best if scores[index] > 0]

    def _words(self, texts: list[str]) -> list[list[str]]:
        """Return the stems of each text's words, in order, without stop words."""
        import bm25s

        stemmer = snowballstemmer.stemmer(self._language)  # one a call, as it keeps the word that it works on
        stop = self._language if self._language in _WITH_STOP_WORDS else None
        found: list[list[str]] = bm25s.tokenize(
            texts, stopwords=stop, stemmer=stemmer.stemWords, token_pattern=_WORD, return_ids=False, show_progress=False
        )  # fmt: skip
        return found


def load_corpus(base: Path, path: str, where: str, language: str = "english") -> Corpus:
    """Load the text files of a folder, or of a glob, below the spec's folder. Raises SpecError."""
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
    return _loaded(tuple((str(file), file.stat().st_mtime_ns) for file in files), str(base), language)


@lru_cache(maxsize=4)
def _loaded(files: tuple[tuple[str, int], ...], base: str, language: str) -> Corpus:
    texts = {}
    for name, _ in files:
        path = Path(name)
        shown = str(path.relative_to(base)) if path.is_relative_to(base) else path.name
        texts[shown] = path.read_text("utf-8", "replace")
    return Corpus(texts, language)
