"""An S3 bucket, or a prefix of one, as a store. Credentials, profile and endpoint are those of boto3's own chain."""

import contextlib
import datetime as dt
import functools
import io
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.retry_policy import after_failure
from pipeline.stores import s3_environment
from pipeline.stores.base import ObjectInfo, Store, Upload, checked, same_size
from pipeline.stores.s3_errors import FOREIGN, store_error
from schemas.errors import ObjectExists, ObjectMissing

_PART = 64 << 20
_READ_ATTEMPTS = 4
_COPY_WHOLE = 4 << 30  # S3 takes 5 GiB in one request


class _BodyCut(Exception):
    """The connection was lost while a body was read."""


class S3Store(Store):
    """Two clients: one that retries, and one that never does, for conditional puts (the retry of a lost reply would
    find that the object exists). `session`: of another account than the environment's."""

    is_remote = True

    def __init__(self, bucket: str, prefix: str = "", *, part_size: int = _PART, session: Any = None) -> None:
        self.bucket = bucket
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._part_size = part_size
        self._own_session = session
        self._lock = threading.Lock()
        self._clients: dict[int, Any] = {}

    def put_new(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self._client(attempts=1).put_object(**self._address(checked(key)), Body=data, IfNoneMatch="*")

    def put(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self._client().put_object(**self._address(checked(key)), Body=data)

    def upload(self, key: str, path: Path) -> None:
        size = path.stat().st_size
        if self.head(checked(key)) is not None:
            return same_size(self, key, size)
        try:
            with self._errors(key):
                if size < self._part_size:
                    with path.open("rb") as body:
                        self._client().put_object(**self._address(key), Body=body, IfNoneMatch="*")
                else:  # boto3 streams the parts in parallel, and aborts the upload when one fails
                    config = TransferConfig(
                        multipart_threshold=self._part_size, multipart_chunksize=self._part_size, max_concurrency=4
                    )
                    self._client().upload_file(str(path), self.bucket, self._prefix + key, Config=config)
        except ObjectExists:
            same_size(self, key, size)

    def copy(self, source: str, target: str) -> None:
        """Copy in one request up to 4 GB, above that in parts that the server copies."""
        if self.head(checked(target)) is not None:
            return
        config = TransferConfig(multipart_threshold=_COPY_WHOLE, multipart_chunksize=_COPY_WHOLE // 8)
        origin = {"Bucket": self.bucket, "Key": self._prefix + source}
        with self._errors(source):
            self._client().copy(origin, self.bucket, self._prefix + target, Config=config)

    def get(self, key: str) -> bytes:
        return self._read(key)

    def get_unchanged(self, key: str, etag: str) -> bytes | None:
        """Do as the base does, by one request."""
        data, found = self._object(key)
        return data if _info(key, len(data), found).etag == etag else None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._read(key, Range=f"bytes={start}-{start + length - 1}")

    def _read(self, key: str, **options: Any) -> bytes:
        return self._object(key, **options)[0]

    def _object(self, key: str, **options: Any) -> tuple[bytes, Any]:
        """Read an object, with its response. boto3 retries up to the response's headers; a broken body is requested
        again here."""

        def read() -> tuple[bytes, Any]:
            found = self._client().get_object(**self._address(key), **options)
            with contextlib.closing(found["Body"]) as body:
                try:
                    return bytes(body.read()), found
                except BotoCoreError as exc:
                    raise _BodyCut(exc) from exc

        with self._errors(key):
            try:
                return after_failure(read, on=_BodyCut, attempts=_READ_ATTEMPTS)
            except _BodyCut as exc:
                raise exc.args[0] from None

    def head(self, key: str) -> ObjectInfo | None:
        try:
            with self._errors(key):
                found = self._client().head_object(**self._address(key))
        except ObjectMissing:
            return None
        return _info(key, found["ContentLength"], found)

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List objects. AWS lists by key. SeaweedFS walks folders, "x/1" before "x-1", and `StartAfter` skips a folder
        with all its content: so other servers list everything, and it is sorted here."""
        options = {"StartAfter": self._prefix + start_after} if start_after and self._is_aws else {}
        found = (
            _info(item["Key"][len(self._prefix) :], item["Size"], item)
            for page in self._pages("list_objects_v2", prefix, **options)
            for item in page.get("Contents", ())
            if not item["Key"].endswith("/")  # a "folder" made by hand in a console
        )
        ordered = found if self._is_aws else iter(sorted(found, key=lambda info: info.key))
        return (info for info in ordered if info.key > start_after)

    def folders(self, prefix: str) -> Sequence[str]:
        pages = self._pages("list_objects_v2", prefix, Delimiter="/")
        found = (item["Prefix"] for page in pages for item in page.get("CommonPrefixes", ()))
        return sorted(path[len(self._prefix + prefix) : -1] for path in found)

    def _pages(self, operation: str, prefix: str, **options: Any) -> Iterator[Any]:
        with self._errors(prefix):
            pages = self._client().get_paginator(operation)
            yield from pages.paginate(Bucket=self.bucket, Prefix=self._prefix + prefix, **options)

    def delete(self, keys: Iterable[str]) -> None:
        names = [{"Key": self._prefix + key} for key in keys]
        for start in range(0, len(names), 1000):
            some = {"Objects": names[start : start + 1000], "Quiet": True}
            with self._errors(""):
                failed = self._client().delete_objects(Bucket=self.bucket, Delete=some).get("Errors", ())
                for item in failed:
                    raise ClientError({"Error": item}, "DeleteObjects")

    def open_input(self, key: str) -> Any:
        info = self.head(key)
        if info is None:
            raise ObjectMissing(f"{self.uri}/{key} does not exist.")
        import pyarrow as pa

        return pa.PythonFile(_Ranges(self, info), mode="r")

    def polars_path(self, key: str) -> tuple[str, dict[str, str] | None]:
        return f"{self.uri}/{key}", self.options(key)

    def options(self, key: str = "") -> dict[str, str]:
        """Return boto3's credentials, region and endpoint, under the names that Polars and delta-rs use."""
        meta = self._client().meta
        with self._errors(key):
            credentials = self._session.get_credentials()
            frozen = credentials.get_frozen_credentials() if credentials else None
        options = {
            "aws_access_key_id": frozen and frozen.access_key,
            "aws_secret_access_key": frozen and frozen.secret_key,
            "aws_session_token": frozen and frozen.token,
            "aws_region": meta.region_name if meta.region_name != "aws-global" else None,
            "aws_endpoint_url": None if self._is_aws else meta.endpoint_url,
            "aws_allow_http": "true" if meta.endpoint_url.startswith("http://") else None,
        }
        return {name: value for name, value in options.items() if value}

    def arrow_path(self, key: str) -> tuple[Any, str]:
        from pyarrow.fs import S3FileSystem  # which starts AWS's own SDK

        options = self.options(key)
        endpoint = options.get("aws_endpoint_url", "")
        system = S3FileSystem(
            access_key=options.get("aws_access_key_id"),
            secret_key=options.get("aws_secret_access_key"),
            session_token=options.get("aws_session_token"),
            region=options.get("aws_region"),
            scheme=endpoint.partition("://")[0] or "https",
            endpoint_override=endpoint.partition("://")[2] or None,
        )
        return system, f"{self.bucket}/{self._prefix}{key}".rstrip("/")

    def stale_uploads(self, older_than: dt.datetime) -> Sequence[Upload]:
        return [
            Upload(item["Key"][len(self._prefix) :], item["UploadId"], item["Initiated"].astimezone(dt.UTC))
            for page in self._pages("list_multipart_uploads", "")
            for item in page.get("Uploads", ())
            if item["Initiated"] < older_than
        ]

    def abort_uploads(self, uploads: Iterable[Upload]) -> None:
        for upload in uploads:
            with contextlib.suppress(ObjectMissing), self._errors(upload.key):
                self._client().abort_multipart_upload(**self._address(upload.key), UploadId=upload.upload_id)

    def close(self) -> None:
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _address(self, key: str) -> dict[str, Any]:
        return {"Bucket": self.bucket, "Key": self._prefix + key}

    @functools.cached_property
    def _session(self) -> Any:
        return self._own_session or boto3.session.Session(region_name=s3_environment.region())

    @property
    def _is_aws(self) -> bool:
        return ".amazonaws.com" in self._client().meta.endpoint_url

    def _client(self, *, attempts: int = 5) -> Any:
        """Return a client, made at first use: a session is not safe to share among threads, its clients are."""
        with self._lock:
            if attempts not in self._clients:
                endpoint = s3_environment.endpoint()
                config = Config(
                    connect_timeout=5,
                    read_timeout=60,
                    max_pool_connections=64,
                    retries={"mode": "standard", "total_max_attempts": attempts},
                    s3={"addressing_style": "path"} if endpoint else None,  # a bucket is seldom a host name there
                )
                with self._errors(""):
                    self._clients[attempts] = self._session.client("s3", config=config)
            return self._clients[attempts]

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Convert an error of boto3 to ours; the only place that does."""
        try:
            yield
        except FOREIGN as exc:
            raise store_error(exc, self.bucket, f"{self.uri}/{key}") from exc


def _info(key: str, size: int, found: Any) -> ObjectInfo:
    return ObjectInfo(key, size, found["ETag"].strip('"'), found["LastModified"].astimezone(dt.UTC))


class _Ranges(io.RawIOBase):
    """An object as a file; pyarrow reads it a range at a time."""

    def __init__(self, store: S3Store, info: ObjectInfo) -> None:
        self._store, self._info, self._position = store, info, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._info.size}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        rest = max(0, self._info.size - self._position)
        size = rest if size < 0 else min(size, rest)
        data = self._store.get_range(self._info.key, self._position, size) if size else b""
        self._position += len(data)
        return data
