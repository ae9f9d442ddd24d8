"""The objects of a source: one file, a folder or a glob, local or `s3://`."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipeline.stores import ObjectInfo, Store, open_store
from schemas.errors import InputChanged, ObjectMissing, SourceError
from schemas.ids import digest
from schemas.spec import Source

Format = Literal["parquet", "csv", "ndjson"]
_ENDINGS: dict[str, Format] = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "csv",
    ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson",
}  # fmt: skip
_COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class SourceFile:
    """`uri` opens it, `relative` is its path below the source's root, `etag` changes when it does."""

    uri: str
    relative: str
    size: int
    etag: str


@dataclass(frozen=True)
class Listing:
    """What there is to read, in order of path."""

    files: tuple[SourceFile, ...]
    format: Format

    @property
    def fingerprint(self) -> str:
        return digest(self.format, *(f"{f.uri}\0{f.size}\0{f.etag}" for f in self.files))


def list_source(source: Source, base: Path) -> Listing:
    """The source's objects; hidden ones (`.x`, `_x`) and empty folders do not count. Raises SourceError."""
    path = source.path
    found = list(_s3(path) if path.startswith("s3://") else _local(path, base))
    if not found:
        raise SourceError(f"source.path = {path!r}: nothing there.", hint="Check the path; a glob must match files.")
    data_format = source.format or _format_of(found, path)
    if source.format is None:
        found = [file for file in found if _ending(file.relative) == data_format]
    if all(file.size == 0 for file in found):
        raise SourceError(f"source.path = {path!r}: {'the file is' if len(found) == 1 else 'all files are'} empty.")
    return Listing(tuple(sorted(found, key=lambda file: file.relative)), data_format)


def _format_of(files: list[SourceFile], path: str) -> Format:
    endings = {ending for file in files if (ending := _ending(file.relative))}
    if len(endings) != 1:
        said = (
            "no file of a known ending" if not endings else f"files of several formats ({', '.join(sorted(endings))})"
        )
        raise SourceError(f"source.path = {path!r}: {said}.", hint="Say source.format: parquet, csv or ndjson.")
    return endings.pop()


def _ending(name: str) -> Format | None:
    path = Path(name)
    if path.suffix in _COMPRESSED:
        path = path.with_suffix("")
    return _ENDINGS.get(path.suffix.lower())


def _local(path: str, base: Path) -> Iterator[SourceFile]:
    root = base / Path(path.removeprefix("file://")).expanduser()
    if _GLOB.search(path):
        parts = root.parts
        fixed = next(at for at, part in enumerate(parts) if _GLOB.search(part))
        pattern = re.compile(translate_glob("/".join(parts[fixed:])))
        root = Path(*parts[:fixed])
        matches: Iterator[Path] = (p for p in _walk(root) if pattern.fullmatch(p.relative_to(root).as_posix()))
    elif root.is_dir():
        matches = _walk(root)
    elif root.exists():
        matches, root = iter((root,)), root.parent
    else:
        raise SourceError(f"source.path = {path!r}: no such file or folder ({root}).", hint="Check the path.")
    for found in matches:
        stat = found.stat()
        etag = f"{stat.st_mtime_ns:x}-{stat.st_size:x}"
        yield SourceFile(str(found.absolute()), found.relative_to(root).as_posix(), stat.st_size, etag)


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith((".", "_")))


def _s3(path: str) -> Iterator[SourceFile]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    store = _bucket(bucket)
    if match := _GLOB.search(key):
        prefix = key[: match.start()]
        pattern = re.compile(translate_glob(key))
        root = prefix.rpartition("/")[0]
        found: Iterator[ObjectInfo] = (info for info in store.list(prefix) if pattern.fullmatch(info.key))
    else:
        info = store.head(key) if key and not key.endswith("/") else None
        if info is not None:
            found, root = iter((info,)), key.rpartition("/")[0]
        else:
            root = key.rstrip("/")
            found = store.list(f"{root}/" if root else "")
    for info in found:
        relative = info.key[len(root) + 1 :] if root else info.key
        if not info.key.endswith("/") and not any(part.startswith((".", "_")) for part in relative.split("/")):
            yield SourceFile(f"s3://{bucket}/{info.key}", relative, info.size, info.etag)


def translate_glob(pattern: str) -> str:
    """A regular expression for a glob in which `*` and `?` stop at `/` and `**` does not."""
    out = []
    for part in re.split(r"(\*\*/?)", pattern):
        if part.startswith("**"):
            out.append("(?:.*/)?" if part.endswith("/") else ".*")
        else:
            inner = translate(part).removeprefix("(?s:").removesuffix(r")\Z").removesuffix(r")\z")
            out.append(inner.replace(".*", "[^/]*").replace("(?>[^/]*?", "(?>[^/]*?"))
    return "".join(out)


@lru_cache(maxsize=8)
def _bucket(bucket: str) -> Store:
    return open_store(f"s3://{bucket}")


def open_file(file: SourceFile) -> Any:
    """A `pyarrow.NativeFile` over the object as it was listed. Raises InputChanged where it is another one now."""
    if file.uri.startswith("s3://"):
        bucket, _, key = file.uri.removeprefix("s3://").partition("/")
        store = _bucket(bucket)
        now = store.head(key)
        if now is None or now.etag != file.etag:
            raise _changed(file)
        try:
            return store.open_input(key)
        except ObjectMissing:
            raise _changed(file) from None
    try:
        stat = os.stat(file.uri)
    except FileNotFoundError:
        raise _changed(file) from None
    if f"{stat.st_mtime_ns:x}-{stat.st_size:x}" != file.etag:
        raise _changed(file)
    return pa.OSFile(file.uri)


def compression_of(file: SourceFile) -> str | None:
    return _COMPRESSED.get(Path(file.relative).suffix)


def _changed(file: SourceFile) -> InputChanged:
    return InputChanged(
        f"{file.uri} changed after it was planned.", hint="Nothing of it was published; run again to plan anew."
    )
