"""The objects of a source: one file, a folder or a glob, local or `s3://`."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn

import pyarrow as pa

from pipeline.sources.markers import COMPRESSED, is_marker
from pipeline.stores import ObjectInfo, Store, open_store, s3_environment
from schemas.digests import digest
from schemas.errors import InputChanged, ObjectMissing, SourceError
from schemas.spec.sections import Source

Format = Literal["parquet", "csv", "ndjson"]
_ENDINGS: dict[str, Format] = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "csv",
    ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson",
}  # fmt: skip
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class SourceFile:
    """`uri` opens it, `relative` is its path below the source's root, `etag` changes when it does. `changed_at`: the
    time of the last change, in seconds since 1970. `content`: its bytes, where they were read as they were listed."""

    uri: str
    relative: str
    size: int
    etag: str
    changed_at: float = 0.0
    content: bytes | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Listing:
    """The files to read, in order of path."""

    files: tuple[SourceFile, ...]
    format: Format

    @property
    def fingerprint(self) -> str:
        return digest(self.format, *(f"{f.uri}\0{f.size}\0{f.etag}" for f in self.files))


def list_source(source: Source, base: Path) -> Listing:
    """The source's objects; hidden ones (`.x`, `_x`) and empty folders do not count. Raises SourceError."""
    path = source.path
    listed = _s3(path) if path.startswith("s3://") else _local(path, base)
    found = [file for file in listed if not is_marker(Path(file.relative).name, source.done)]
    if not found:
        raise SourceError(f"source.path = {path!r}: nothing there.", hint="Check the path; a glob must match files.")
    data_format = source.format or _format_of(found, path)
    # A folder may hold a README, or a second format; a file whose ending says nothing counts where none says more.
    found = [file for file in found if _ending(file.relative) == data_format] or found
    if all(file.size == 0 for file in found):
        raise SourceError(f"source.path = {path!r}: {'the file is' if len(found) == 1 else 'all files are'} empty.")
    return Listing(tuple(sorted(found, key=lambda file: file.relative)), data_format)


def _format_of(files: list[SourceFile], path: str) -> Format:
    endings = {ending for file in files if (ending := _ending(file.relative))}
    if len(endings) != 1:
        problem = (
            "no file of a known ending" if not endings else f"files of several formats ({', '.join(sorted(endings))})"
        )
        raise SourceError(f"source.path = {path!r}: {problem}.", hint="Set source.format: parquet, csv or ndjson.")
    return endings.pop()


def _ending(name: str) -> Format | None:
    path = Path(name.lower())
    if path.suffix in COMPRESSED:
        path = path.with_suffix("")
    return _ENDINGS.get(path.suffix)


def _local(path: str, base: Path) -> Iterator[SourceFile]:
    relative = Path(path.removeprefix("file://")).expanduser()
    root = base / relative
    if root.is_dir():
        matches = _walk(root, path)
    elif root.exists():  # also where its name has a [
        matches, root = iter((root,)), root.parent
    elif _GLOB.search(path):
        fixed = next(index for index, part in enumerate(relative.parts) if _GLOB.search(part))
        pattern = re.compile(translate_glob("/".join(relative.parts[fixed:])))
        root = base.joinpath(*relative.parts[:fixed])
        matches = (p for p in _walk(root, path) if pattern.fullmatch(p.relative_to(root).as_posix()))
    else:
        raise SourceError(f"source.path = {path!r}: no such file or folder ({root}).", hint="Check the path.")
    for found in matches:
        try:
            info = found.stat()
        except OSError as exc:
            raise SourceError(f"source.path = {path!r}: {found} cannot be read: {exc.strerror}.") from None
        if stat.S_ISREG(info.st_mode):
            relative_path = found.relative_to(root).as_posix()
            yield SourceFile(str(found.absolute()), relative_path, info.st_size, _etag(info), changed_at(info))


def changed_at(info: os.stat_result) -> float:
    """Return the time of a file's last change. A copy may bring one from a clock that is ahead; `ctime` is our own."""
    return min(info.st_mtime, info.st_ctime)


def _etag(info: os.stat_result) -> str:
    return f"{info.st_mtime_ns:x}-{info.st_size:x}"


def _walk(root: Path, path: str) -> Iterator[Path]:
    def refuse(exc: OSError) -> NoReturn:
        raise SourceError(f"source.path = {path!r}: {exc.filename} cannot be listed: {exc.strerror}.") from None

    if not root.is_dir():
        return
    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")) and not _loops(folder, name))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith((".", "_")))


def _loops(folder: str, name: str) -> bool:
    """True for a link to a folder above, which would be walked without end."""
    path = Path(folder, name)
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _s3(path: str) -> Iterator[SourceFile]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    store = bucket_of(bucket)
    info = store.head(key) if key and not key.endswith("/") and "//" not in key else None
    if info is not None:
        found: Iterator[ObjectInfo] = iter((info,))
        root = key.rpartition("/")[0]
        named = True
    else:
        match = _GLOB.search(key)
        pattern = re.compile(translate_glob(key) if match else ".*", re.S)
        root = key[: match.start()].rpartition("/")[0] if match else key.rstrip("/")
        prefix = key[: match.start()] if match else f"{root}/" if root else ""
        found = (info for info in store.list(prefix) if pattern.fullmatch(info.key))
        named = False
    for info in found:
        relative = info.key[len(root) + 1 :] if root else info.key
        hidden = any(part.startswith((".", "_")) for part in relative.split("/"))
        if named or not (hidden or info.key.endswith("/")):
            uri = f"s3://{bucket}/{info.key}"
            yield SourceFile(uri, relative, info.size, info.etag, info.modified.timestamp())


_TOKENS = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\]|.", re.S)


def translate_glob(pattern: str) -> str:
    """A regular expression for a glob in which `*`, `?` and `[…]` stop at `/` and `**` does not."""
    known = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = []
    for token in _TOKENS.findall(pattern):
        if token in known:
            parts.append(known[token])
        elif len(token) > 2 and token.startswith("["):
            negated = token[1] == "!"
            inner = re.sub(r"([\\\[\]&~|^])", r"\\\1", token[2 if negated else 1 : -1])
            parts.append(f"(?!/)[{'^' if negated else ''}{inner}]")
        else:
            parts.append(re.escape(token))
    return f"(?s:{''.join(parts)})"


def bucket_of(bucket: str) -> Store:
    """Return the store of a source's bucket."""
    return _bucket_at(bucket, s3_environment.endpoint())


@lru_cache(maxsize=8)
def _bucket_at(bucket: str, endpoint: str | None) -> Store:
    """Return one store, and so one pool of connections, a bucket; `endpoint` is the environment's."""
    return open_store(f"s3://{bucket}")


def open_file(file: SourceFile) -> Any:
    """Open the object as it was listed, as a `pyarrow.NativeFile`. Raises InputChanged if it has changed since."""
    if file.content is not None:
        return pa.BufferReader(file.content)
    check_unchanged(file)
    try:
        if file.uri.startswith("s3://"):
            bucket, key = _place(file)
            return bucket.open_input(key)
        return pa.OSFile(file.uri)
    except (ObjectMissing, FileNotFoundError):
        raise _changed(file) from None
    except PermissionError as exc:
        raise SourceError(f"{file.uri}: cannot be read: {exc.strerror}.", hint="Check its permissions.") from None


def check_unchanged(file: SourceFile) -> None:
    """Raise InputChanged if the object is not the one that was listed. Also called after reading, as a writer may have
    changed it in between."""
    if file.content is not None:
        return
    if file.uri.startswith("s3://"):
        bucket, key = _place(file)
        info = bucket.head(key)
        same = info is not None and info.etag == file.etag
    else:
        try:
            same = _etag(os.stat(file.uri)) == file.etag
        except (FileNotFoundError, NotADirectoryError):
            same = False
    if not same:
        raise _changed(file)


def read_listed(file: SourceFile) -> bytes:
    """Read an object of S3 as it was listed, by one request. Raises InputChanged, StoreError."""
    bucket, key = _place(file)
    try:
        content = bucket.get_unchanged(key, file.etag)
    except ObjectMissing:
        content = None
    if content is None:
        raise _changed(file)
    return content


def _place(file: SourceFile) -> tuple[Store, str]:
    """Return the store and the key of an object of S3."""
    bucket, _, key = file.uri.removeprefix("s3://").partition("/")
    return bucket_of(bucket), key


def compression_of(file: SourceFile) -> str | None:
    return COMPRESSED.get(Path(file.relative.lower()).suffix)


def _changed(file: SourceFile) -> InputChanged:
    return InputChanged(
        f"{file.uri} changed after it was planned.", hint="Nothing of it was published; run it again for a new plan."
    )
