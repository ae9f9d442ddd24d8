"""A folder as a store. `os.link` of a finished, synced file acts as S3's conditional put: one winner, whole.

Keys are checked not to leave the root. Symbolic links inside it were made by its owner, and are followed.
"""

import contextlib
import datetime as dt
import errno
import io
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

from pipeline.stores.base import ObjectInfo, Store, Upload, checked, same_size
from schemas import ids
from schemas.errors import NoRoom, ObjectExists, ObjectMissing, StoreError, StoreRefused

_TEMPORARY = f"{ids.TANDEM}/tmp/"  # noqa: S108 - a folder of the sink's own, on its file system
_OF_TEMPORARY = f"{ids.TANDEM}/"
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

_AGAIN = "Then run it again: what is written is kept."
_REFUSALS = {
    errno.ENOSPC: ("no space is left on the disk", f"Free some space. {_AGAIN}"),
    errno.EDQUOT: ("the disk quota is used up", f"Free some space. {_AGAIN}"),
    errno.EROFS: ("the file system is read-only", "Mount it writable, or choose another folder."),
    errno.EACCES: ("this user has no permission", f"Give it read and write access to the folder. {_AGAIN}"),
    errno.EPERM: ("the file system does not permit it", "Choose a folder that allows hard links and is writable."),
    errno.ENOTSUP: ("the file system has no hard links", "Choose a folder on another file system."),
    errno.EXDEV: ("a folder inside is a link to another disk", "Move the whole folder there instead."),
    errno.ENOTDIR: ("a file is where a folder is needed", "Move that file away, or choose another folder."),
    errno.EISDIR: ("a folder is where a file is needed", "Move that folder away, or choose another one."),
    errno.ENAMETOOLONG: ("the name is too long", "Choose a folder with a shorter path, or shorter partition values."),
}


class LocalStore(Store):
    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uri = str(self.root)

    def put_new(self, key: str, data: bytes) -> None:
        self._write(key, io.BytesIO(data), os.link)

    def put(self, key: str, data: bytes) -> None:
        self._write(key, io.BytesIO(data), os.replace)

    def upload(self, key: str, path: Path) -> None:
        size = path.stat().st_size
        if self.head(key) is None:
            try:
                with path.open("rb") as source:
                    return self._write(key, source, os.link)
            except ObjectExists:
                pass
        return same_size(self, key, size)

    def copy(self, source: str, target: str) -> None:
        """Make a second name for the same file; copy its bytes if the file system has no hard links."""
        origin, final = self._path(source), self._path(target)
        with contextlib.suppress(ObjectExists), self._reading(source):
            if final.exists():
                return
            if origin.is_dir():
                raise FileNotFoundError
            try:
                self._place(os.link, origin, final)
            except OSError as exc:
                if exc.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP):
                    raise
                with origin.open("rb") as file:
                    self._write(target, file, os.link)

    def _write(self, key: str, source: IO[bytes], place: Callable[[Path, Path], None]) -> None:
        final, temporary = self._path(key), self.root / _TEMPORARY / uuid.uuid4().hex
        with _refusals(final):
            try:
                with self._new_file(temporary) as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                    file.flush()
                    os.fsync(file.fileno())
                self._place(place, temporary, final)
            finally:
                temporary.unlink(missing_ok=True)

    def _new_file(self, path: Path) -> IO[bytes]:
        try:
            return path.open("xb")
        except FileNotFoundError:
            _make_folder(path.parent)
            return path.open("xb")

    def _place(self, place: Callable[[Path, Path], None], temporary: Path, final: Path) -> None:
        """Give a file its name. Folders are synced afterwards, all at once: that is one commit of the file system."""
        changed = [final.parent]
        for attempt in range(6):
            try:
                place(temporary, final)
                break
            except FileExistsError:
                raise ObjectExists(f"{str(final)!r} exists.") from None
            except FileNotFoundError:  # no folder yet, a delete took it when it was empty, or took the file to copy
                if attempt == 5 or not temporary.exists():
                    raise
                changed += _make_folder(final.parent)
        for folder in dict.fromkeys(changed):
            _sync(folder)

    def get(self, key: str) -> bytes:
        with self._reading(key) as path:
            return path.read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._reading(key) as path, path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with _refusals(path), contextlib.suppress(*_ABSENT):
            return None if path.is_dir() else _info(key, path.stat())
        return None

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        for key, entry in self._walk(prefix, start_after):
            try:
                found = entry.stat()
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise _refusal(entry.path, exc) from exc
            yield _info(key, found)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Do as the base does, without a look at each file but links, which may lead nowhere."""
        return (key for key, entry in self._walk(prefix, "") if not entry.is_symlink() or os.path.exists(entry.path))

    def _walk(self, prefix: str, start_after: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
        """Walk in the order of keys: a folder sorts as its name with "/", with which all keys in it begin. With a stack
        and without context managers, as there may be 100,000 folders."""
        waiting = [iter(self._entries(prefix[: prefix.rfind("/") + 1]))]
        while waiting:
            for key, entry in waiting[-1]:
                inside = key.endswith("/")
                if key <= start_after and not (inside and start_after.startswith(key)):
                    continue
                if inside and (key.startswith(prefix) or prefix.startswith(key)):
                    waiting.append(iter(self._entries(key)))
                    break
                if not inside and key.startswith(prefix):
                    yield key, entry
            else:
                waiting.pop()

    def folders(self, prefix: str) -> Sequence[str]:
        return sorted(key[len(prefix) : -1] for key, _ in self._entries(prefix) if key.endswith("/"))

    def _entries(self, folder: str) -> Sequence[tuple[str, "os.DirEntry[str]"]]:
        path = f"{self.uri}/{folder}"  # no Path: there may be 100,000 folders
        try:
            with os.scandir(path) as entries:
                keyed = [(f"{folder}{entry.name}{'/' if _is_folder(entry) else ''}", entry) for entry in entries]
        except _ABSENT:
            return []
        except OSError as exc:
            raise _refusal(path, exc) from exc
        if folder == _OF_TEMPORARY:
            keyed = [pair for pair in keyed if pair[0] != _TEMPORARY]
        if len(keyed) > 1:
            keyed.sort(key=itemgetter(0))
        return keyed

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            with _refusals(path), contextlib.suppress(*_ABSENT):
                path.unlink()
                self._prune(path.parent)

    def _prune(self, folder: Path) -> None:
        """Remove empty folders, as S3 has none."""
        with contextlib.suppress(OSError):
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent

    def open_input(self, key: str) -> Any:
        import pyarrow as pa  # a quarter of a second, which commands that read only JSON don't need

        with self._reading(key) as path:
            path.open("rb").close()  # distinguishes an absent file from a folder; pyarrow does not
            return pa.OSFile(str(path), "rb")

    def polars_path(self, key: str) -> tuple[str, dict[str, str] | None]:
        return str(self._path(key)), None

    def arrow_path(self, key: str) -> tuple[Any, str]:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self._path(key) if key else self.root)

    def stale_uploads(self, older_than: dt.datetime) -> Sequence[Upload]:
        found = []
        for path in (self.root / _TEMPORARY).glob("*"):
            with contextlib.suppress(FileNotFoundError):
                found.append(Upload(_TEMPORARY + path.name, "", _info("", path.stat()).modified))
        return [upload for upload in found if upload.started < older_than]

    def abort_uploads(self, uploads: Iterable[Upload]) -> None:
        for upload in uploads:
            path = self._path(upload.key)
            with _refusals(path):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        pass

    def _path(self, key: str) -> Path:
        return self.root / checked(key)

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        with _refusals(path):
            try:
                yield path
            except _ABSENT:
                raise ObjectMissing(f"{str(path)!r} does not exist.") from None


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    modified = dt.datetime.fromtimestamp(found.st_mtime, dt.UTC)
    return ObjectInfo(key, found.st_size, f"{found.st_mtime_ns:x}-{found.st_size:x}", modified)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """True for a folder, but not for a link to a folder above, which would be walked without end."""
    if not entry.is_dir():
        return False
    return not (entry.is_symlink() and Path(entry.path).parent.resolve().is_relative_to(Path(entry.path).resolve()))


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder, and those above it that are missing. Returns the folders that have a new one, to be synced."""
    changed = list[Path]()
    while not folder.is_dir():
        try:
            folder.mkdir()
            changed.append(folder.parent)
        except FileNotFoundError:
            changed += _make_folder(folder.parent)
        except FileExistsError:
            if _is_in_the_way(folder):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder)) from None
            # another one has made it, and perhaps removed it again
    return changed


def _is_in_the_way(path: Path) -> bool:
    """True for what is no folder, nor leads to one; False for what is gone by now."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISDIR(mode) and not path.is_dir()


def _sync(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # what was put into it was deleted meanwhile, and the folder with it
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _refusals(path: Path | str) -> Iterator[None]:
    """Convert an OSError to ours."""
    try:
        yield
    except OSError as exc:
        raise _refusal(path, exc) from exc


def _refusal(path: Path | str, exc: OSError) -> StoreError:
    reason, hint = _REFUSALS.get(exc.errno or 0, ("", ""))
    if reason:
        kind = NoRoom if exc.errno in (errno.ENOSPC, errno.EDQUOT) else StoreRefused
        return kind(f"{str(path)!r} cannot be used: {reason}.", hint=hint)
    return StoreError(f"{str(path)!r} cannot be read or written: {exc.strerror or exc}.")
