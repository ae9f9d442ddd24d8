"""Object stores: a folder, an S3 bucket, or memory, with one meaning of "put if absent"."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.stores.base import ObjectInfo, Store, Upload
from pipeline.stores.local import LocalStore
from pipeline.stores.memory import MemoryStore
from pipeline.stores.probe import may_delete, probe
from schemas.errors import UsageError

__all__ = ["LocalStore", "MemoryStore", "ObjectInfo", "Store", "Upload", "may_delete", "open_store", "probe"]

_ALLOWED = (
    "Write a folder ('./out'), 'file:///path' or 's3://bucket/prefix' (AWS_ENDPOINT_URL names another S3 server)."
)


def open_store(uri: str, *, base: Path | None = None) -> Store:
    """Return the store of a folder or of `s3://bucket/prefix`; a relative folder is below `base`. Writes nothing."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return LocalStore((base or Path()) / Path(uri).expanduser())
    if scheme == "s3":
        from pipeline.stores.s3 import S3Store  # half a second of boto3, which a local sink need not pay

        bucket, _, prefix = rest.partition("/")
        prefix = prefix.strip("/")
        if not bucket or (prefix and not {"", ".", ".."}.isdisjoint(prefix.split("/"))):
            raise UsageError(f"{uri!r} is not a bucket and a prefix.", hint=_ALLOWED)
        return S3Store(bucket, prefix)
    if scheme == "file" and (parts := urlsplit(uri)).netloc in ("", "localhost"):
        return LocalStore(Path(unquote(parts.path)))
    raise UsageError(f"{uri!r} is neither a folder nor in S3.", hint=_ALLOWED)
