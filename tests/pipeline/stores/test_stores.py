"""One contract for every store: memory, held back, a folder, SeaweedFS (a real S3 server), moto (AWS's own answers)."""

from __future__ import annotations

import datetime as dt
import errno
import io
import os
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pyarrow.parquet as pq
import pytest
from botocore import exceptions as boto
from botocore.response import StreamingBody
from moto import mock_aws

from pipeline.stores import LocalStore, MemoryStore, Store, open_store, probe
from pipeline.stores.held import HeldStore
from pipeline.stores.s3 import S3Store
from pipeline.stores.s3_errors import store_error
from schemas.errors import ObjectExists, ObjectMissing, SinkError, StoreError, StoreRefused, UsageError
from tests.harness.fault_proxy import FaultProxy
from tests.harness.servers import SeaweedS3

KINDS = ["memory", "held", "local", "seaweed", "moto"]
ODD_KEYS = [
    *("data/day=2026-11-01/part-00000.parquet", "data/city=Z%C3%BCrich/a.parquet", "a b/c d.txt", "é/ü😀.txt"),
    *("plus+and&and=/x?y#z", "percent/%7e", "percent/%2F", "quotes/'\"<>", "star/*[1]", "dots/a..b/...c"),
]
PART = 5 << 20  # the smallest part that S3 takes


@pytest.fixture(scope="module")
def seaweed_bucket(seaweed: SeaweedS3) -> str:
    return seaweed.bucket("stores")


@pytest.fixture
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Store]]:
    """Opens an empty store of a kind, and closes it after the test."""
    stores: list[Store] = []
    mock = mock_aws()

    def open_kind(kind: str) -> Store:
        uri = str(tmp_path / "sink")
        if kind == "seaweed":
            for name, value in request.getfixturevalue("seaweed").env().items():
                monkeypatch.setenv(name, value)
            uri = f"s3://{request.getfixturevalue('seaweed_bucket')}/some/prefix-{uuid.uuid4().hex}"
        elif kind == "moto":
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                monkeypatch.setenv(name, "any")
            monkeypatch.setenv("AWS_REGION", "us-east-1")
            mock.start()
            client = boto3.session.Session(region_name="us-east-1").client("s3")
            client.create_bucket(Bucket="stores")
            client.close()
            uri = "s3://stores"
        if kind in ("memory", "held"):
            below = MemoryStore(uuid.uuid4().hex)
            stores.append(below if kind == "memory" else HeldStore(below, "", first=False))
        else:
            stores.append(open_store(uri))
        return stores[-1]

    yield open_kind
    for store in stores:
        store.close()
        if store.uri == "s3://stores":
            mock.stop()


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, opened: Callable[[str], Store]) -> Store:
    return opened(request.param)


def keys(store: Store, prefix: str = "", **options: str) -> list[str]:
    found = [info.key for info in store.list(prefix, **options)]
    assert options or list(store.keys(prefix)) == found
    return found


def parquet() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"n": range(1000), "text": ["é"] * 1000}).write_parquet(buffer, row_group_size=100)
    return buffer.getvalue()


# The contract ------------------------------------------------------------------------------------------------------


def test_what_is_put_is_read_back_whatever_its_key(store: Store) -> None:
    for key in ODD_KEYS:
        store.put_new(key, key.encode())
    assert [store.get(key).decode() for key in ODD_KEYS] == ODD_KEYS
    assert [store.get_range(key, 2, 3) for key in ODD_KEYS] == [key.encode()[2:5] for key in ODD_KEYS]
    assert keys(store) == sorted(ODD_KEYS)


def test_put_new_never_overwrites_and_put_does(store: Store) -> None:
    store.put_new("k", b"first")
    with pytest.raises(ObjectExists):
        store.put_new("k", b"second")
    assert store.get("k") == b"first"
    store.put("k", b"third")
    store.put("l", b"")
    assert (store.get("k"), store.get("l")) == (b"third", b"")


def test_a_copy_is_made_by_the_server_and_leaves_what_is_there(store: Store) -> None:
    for at, key in enumerate(ODD_KEYS):
        store.put_new(key, key.encode())
        store.copy(key, f"kept/{at}/{key}")
    store.delete(ODD_KEYS)
    assert [store.get(f"kept/{at}/{key}").decode() for at, key in enumerate(ODD_KEYS)] == ODD_KEYS
    store.put("other", b"other")
    store.copy("other", f"kept/0/{ODD_KEYS[0]}")
    assert store.get(f"kept/0/{ODD_KEYS[0]}").decode() == ODD_KEYS[0]
    with pytest.raises(ObjectMissing):
        store.copy("absent", "target")
    assert store.head("target") is None


def test_a_large_object_is_copied_by_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stores.s3._COPY_WHOLE", 8 * PART)
    data = os.urandom(8 * PART + 1)
    store.put("large", data)
    store.copy("large", "kept/large")
    assert store.get("kept/large") == data


def test_put_absent_tells_whether_it_wrote(store: Store) -> None:
    assert store.put_absent("k", b"x") is True
    assert store.put_absent("k", b"x") is False


def test_head_tells_size_age_and_content(store: Store) -> None:
    store.put("a/k", b"12345")
    first = store.head("a/k")
    assert first is not None
    assert (first.key, first.size) == ("a/k", 5)
    assert first.modified.tzinfo is dt.UTC
    assert abs(first.modified - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    assert list(store.list()) == [first]
    store.put("a/k", b"54321")
    second = store.head("a/k")
    assert second is not None
    assert second.etag != first.etag


def test_what_is_absent_is_missing(store: Store) -> None:
    store.put("a/b", b"x")
    for key in ("nothing", "a", "a/b/c", "a/nothing"):
        assert store.head(key) is None
        with pytest.raises(ObjectMissing):
            store.get(key)
        with pytest.raises(ObjectMissing):
            store.open_input(key)
    assert keys(store, "nothing/") == []
    assert list(store.folders("nothing/")) == []


def test_listing_is_in_key_order_from_any_point(store: Store) -> None:
    """Names around "/" are where servers that walk folders differ from those that sort keys."""
    chooser = random.Random(7)
    parts = ["a", "a-", "a.b", "a b", "a0", "a=1", "b%", "é", "b"]
    made = {"/".join(chooser.choices(parts, k=chooser.randint(1, 3))) + f"/f{n % 3}.json" for n in range(60)}
    for key in made:
        store.put(key, b"")
    wanted = sorted(made)
    assert keys(store) == wanted
    for prefix in ("a", "a/", "a-/a", "é/", "a=1/b%/f"):
        assert keys(store, prefix) == [key for key in wanted if key.startswith(prefix)]
    for after in [*chooser.sample(wanted, 12), "a", "a/", "a/f1", "a-/", "b%/\U0001f600", "zzz"]:
        assert keys(store, start_after=after) == [key for key in wanted if key > after]
        assert keys(store, "a", start_after=after) == [key for key in wanted if key > after and key[0] == "a"]
    assert [name for name in store.folders("") if name != "_tandem"] == sorted({key.split("/")[0] for key in made})
    assert store.folders("a/") == sorted({key.split("/")[1] for key in made if key[:2] == "a/" and key.count("/") > 1})


def test_a_listing_may_have_many_pages(opened: Callable[[str], Store]) -> None:
    store = opened("seaweed")
    names = [f"many/{number:05d}" for number in range(1203)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: store.put(name, b""), names))
    assert keys(store, "many/") == names
    assert keys(store, start_after=names[1001]) == names[1002:]
    store.delete(names)
    assert keys(store) == []


def test_delete_takes_what_is_there(store: Store) -> None:
    for key in ("a/b/c", "a/d", "e+ %20é"):
        store.put(key, b"x")
    store.delete(iter(["a/b/c", "a/nothing", "e+ %20é", "x/y"]))
    assert keys(store) == ["a/d"]
    store.delete([])
    store.delete(["a/d"])
    assert keys(store) == []
    store.put_new("a/b/c", b"y")


@pytest.mark.parametrize("size", [0, 1000, 2 * PART + 17])
def test_upload_takes_a_file_of_any_size_once(store: Store, tmp_path: Path, size: int) -> None:
    if isinstance(store, S3Store):
        store._part_size = PART
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    store.upload("data/x", source)
    store.upload("data/x", source)
    assert store.get("data/x") == source.read_bytes()
    assert keys(store) == ["data/x"]


def test_an_object_is_read_as_it_was_listed(store: Store) -> None:
    store.put("a", b"one")
    (listed,) = store.list("a")
    assert store.get_unchanged("a", listed.etag) == b"one"
    store.put("a", b"other")
    assert store.get_unchanged("a", listed.etag) is None
    store.delete(["a"])
    with pytest.raises(ObjectMissing):
        store.get_unchanged("a", listed.etag)


def test_an_object_of_another_size_is_not_taken_for_the_upload(store: Store, tmp_path: Path) -> None:
    if isinstance(store, MemoryStore):
        pytest.skip("overwrites")
    (tmp_path / "source").write_bytes(b"12345")
    store.put("data/x", b"123")
    with pytest.raises(StoreError, match="has 3 bytes, not 5"):
        store.upload("data/x", tmp_path / "source")


@pytest.mark.parametrize("kind", ["seaweed", "moto"])
def test_a_failed_multipart_upload_leaves_nothing(opened: Callable[[str], Store], kind: str, tmp_path: Path) -> None:
    store = opened(kind)
    assert isinstance(store, S3Store)
    store._part_size = PART
    (tmp_path / "source").write_bytes(bytes(3 * PART))

    def break_off(params: Any, **_: Any) -> None:
        if params["query_string"]["partNumber"] == 3:
            raise boto.ConnectionClosedError(endpoint_url="http://s3")

    store._client().meta.events.register("before-call.s3.UploadPart", break_off)
    with pytest.raises(StoreError, match="connection was lost"):
        store.upload("data/x", tmp_path / "source")
    assert keys(store) == []
    assert list(store.stale_uploads(dt.datetime.now(dt.UTC) + dt.timedelta(days=1))) == []


@pytest.mark.parametrize("kind", ["seaweed", "moto", "local"])
def test_interrupted_writes_can_be_found_and_removed(opened: Callable[[str], Store], kind: str) -> None:
    store = opened(kind)
    store.put("data/x", b"x")
    if isinstance(store, S3Store):
        store._client().create_multipart_upload(**store._address("data/é y"))
    else:
        assert isinstance(store, LocalStore)
        (store.root / "_tandem/tmp/left").write_bytes(b"half")
    assert keys(store) == ["data/x"]
    assert list(store.stale_uploads(dt.datetime(2001, 1, 1, tzinfo=dt.UTC))) == []
    found = store.stale_uploads(dt.datetime.now(dt.UTC) + dt.timedelta(days=1))
    assert [upload.key for upload in found] == ["_tandem/tmp/left" if kind == "local" else "data/é y"]
    store.abort_uploads(found)
    store.abort_uploads(found)
    assert list(store.stale_uploads(dt.datetime.now(dt.UTC) + dt.timedelta(days=1))) == []


def test_pyarrow_reads_at_random(store: Store) -> None:
    store.put("é %20/x.parquet", parquet())
    with store.open_input("é %20/x.parquet") as source, pq.ParquetFile(source) as file:
        assert file.metadata.num_row_groups == 10
        assert file.read_row_group(3, columns=["n"])["n"].to_pylist() == list(range(300, 400))


@pytest.mark.parametrize("kind", ["local", "seaweed"])
@pytest.mark.parametrize("key", ["data/day=1/x.parquet", "é/a b%20%2F*[1]?.parquet"])
def test_polars_scans(opened: Callable[[str], Store], kind: str, key: str) -> None:
    store = opened(kind)
    store.put(key, parquet())
    path, options = store.polars_path(key)
    assert (
        pl.scan_parquet(path, storage_options=options, glob=False).select(pl.col("n").sum()).collect().item() == 499500
    )


@pytest.mark.parametrize("kind", ["memory", "held", "local", "seaweed"])
def test_of_sixteen_racing_writers_one_wins(opened: Callable[[str], Store], kind: str) -> None:
    store = opened(kind)
    start = threading.Barrier(16)

    def write(number: int) -> bool:
        start.wait()
        try:
            store.put_new("race", str(number).encode())
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        won = list(threads.map(write, range(16)))
    assert won.count(True) == 1
    assert store.get("race").decode() == str(won.index(True))


@pytest.mark.parametrize("key", ["", "/a", "a//b", "a/", "../a", "a/../../b", "a/./b", "a\0b", "n" * 1025])
def test_a_key_that_would_leave_its_place_is_a_bug(store: Store, key: str) -> None:
    for write in (store.put, store.put_new):
        with pytest.raises(ValueError, match="is not a key"):
            write(key, b"x")


def test_probe_accepts_a_store_that_honours_conditions(store: Store) -> None:
    probe(store)
    assert keys(store) == []


def test_probe_refuses_a_store_that_ignores_conditions() -> None:
    class Careless(MemoryStore):
        def put_new(self, key: str, data: bytes) -> None:
            self.put(key, data)

    store = Careless()
    with pytest.raises(SinkError, match="ignores the condition"):
        probe(store)
    assert keys(store) == []


# Opening -----------------------------------------------------------------------------------------------------------


def test_a_store_is_named_absolutely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for uri in (
        "out",
        "./out/",
        "~/out",
        f"{tmp_path}/x/../out",
        f"file://{tmp_path}/out/",
        "file://localhost/" + f"{tmp_path}/out"[1:],
    ):
        assert open_store(uri).uri == f"{tmp_path}/out"
    assert open_store("out", base=tmp_path / "specs").uri == f"{tmp_path}/specs/out"
    assert open_store("s3://bucket/a/b/").uri == "s3://bucket/a/b"
    assert open_store("s3://bucket").uri == "s3://bucket"


@pytest.mark.parametrize("uri", ["s3://", "s3:///x", "s3://b/a//b", "s3://b/../c", "gs://b/x", "file://host/x"])
def test_what_is_no_store_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="Write a folder"):
        open_store(uri)


# Errors ------------------------------------------------------------------------------------------------------------


def sentences(store: Store) -> list[StoreError]:
    """What each operation says."""
    operations: list[Callable[[], object]] = [
        lambda: store.put_new("k", b"x"),
        lambda: store.get("k"),
        lambda: store.head("k"),
        lambda: list(store.list()),
        lambda: store.delete(["k"]),
    ]
    said = []
    for operation in operations:
        with pytest.raises(StoreError) as caught:
            operation()
        said.append(caught.value)
    return said


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_named(
    opened: Callable[[str], Store], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened("seaweed")
    monkeypatch.setenv(name, "wrong")
    for said in sentences(store):
        assert isinstance(said, StoreRefused)
        assert "AWS_ACCESS_KEY_ID" in str(said)
        assert "wrong" not in str(said)


def test_absent_credentials_and_profiles_are_named(
    opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    store = opened("seaweed")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreRefused, match="AWS credentials are missing"):
        store.put_new("k", b"x")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreRefused, match=r"\(nobody\).*AWS_PROFILE"):
        open_store("s3://bucket").put_new("k", b"x")


def test_a_missing_bucket_is_named(opened: Callable[[str], Store]) -> None:
    opened("seaweed")  # which creates buckets when they are written to, so only reading shows it
    missing = open_store("s3://not-a-bucket/x")
    for operation in (lambda: missing.get("k"), lambda: list(missing.list())):
        with pytest.raises(StoreRefused, match="'not-a-bucket' does not exist"):
            operation()
    missing.close()


def test_a_server_that_is_down_is_named(opened: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened("seaweed")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"no connection to http://127.0.0.1:9.*AWS_ENDPOINT_URL") as caught:
        probe(store)
    assert caught.value.retryable


def test_a_body_that_breaks_off_is_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = StreamingBody.read, [1, 2]

    def read(body: StreamingBody, amt: int | None = None) -> bytes:
        if broken:
            raise boto.IncompleteReadError(actual_bytes=broken.pop(), expected_bytes=10)
        found: bytes = whole(body, amt)
        return found

    store.put("k", b"0123456789")
    monkeypatch.setattr(StreamingBody, "read", read)
    assert store.get("k") == b"0123456789"


def test_an_upload_that_breaks_off_is_sent_again_whole(
    opened: Callable[[str], Store], seaweed: SeaweedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(os.urandom(1_000_000))
    store = opened("seaweed")
    with FaultProxy.start(seaweed.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.set(cut_body={"method": "PUT", "nth": [1, 2]})
        store.upload("k", tmp_path / "source")
        assert proxy.stats().cut == 2
        assert store.get("k") == (tmp_path / "source").read_bytes()
        store.close()


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (412, "PreconditionFailed", ObjectExists, "exists"),
        (404, "NoSuchKey", ObjectMissing, "does not exist"),
        (404, "404", ObjectMissing, "does not exist"),
        (404, "NoSuchBucket", StoreRefused, "bucket 'bucket'"),
        (403, "AccessDenied", StoreRefused, "AWS_PROFILE"),
        (403, "AccountProblem", StoreRefused, "AWS_PROFILE"),
        (400, "ExpiredToken", StoreRefused, "expired"),
        (403, "RequestTimeTooSkewed", StoreRefused, "clock"),
        (301, "PermanentRedirect", StoreRefused, "AWS_REGION"),
        (400, "AuthorizationHeaderMalformed", StoreRefused, "AWS_REGION"),
        (400, "IllegalLocationConstraintException", StoreRefused, "AWS_REGION"),
        (501, "NotImplemented", StoreRefused, "tandem check"),
        (409, "ConditionalRequestConflict", StoreError, "409 ConditionalRequestConflict"),
        (503, "SlowDown", StoreError, "503 SlowDown"),
        (500, "InternalError", StoreError, "500 InternalError"),
    ],
)
def test_what_s3_answers_is_told_with_the_next_step(status: int, code: str, kind: type[StoreError], words: str) -> None:
    answer: Any = {"Error": {"Code": code, "Message": "?"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    said = store_error(boto.ClientError(answer, "PutObject"), "bucket", "s3://bucket/k")
    assert type(said) is kind
    assert words in str(said)
    assert "s3://bucket/k" in str(said)


def test_every_error_of_botocore_has_a_translation() -> None:
    def tree(kind: type[Exception]) -> Iterator[type[Exception]]:
        yield kind
        for child in kind.__subclasses__():
            yield from tree(child)

    for kind in tree(boto.BotoCoreError):
        assert isinstance(store_error(kind.__new__(kind), "bucket", "s3://bucket/k"), StoreError)
    for lost in (boto.ReadTimeoutError, boto.ConnectionClosedError, boto.ResponseStreamingError):
        assert store_error(lost.__new__(lost), "bucket", "s3://bucket/k").retryable


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "sink").write_text("a file")
    store = open_store(str(tmp_path / "sink"))
    with pytest.raises(StoreRefused, match="a file is where a folder is needed"):
        store.put_new("data/x", b"x")
    assert keys(store) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space is left"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EPERM, "does not permit"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.EXDEV, "another disk"),
    ],
)
def test_a_disk_that_refuses_is_named_and_left_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    store = LocalStore(tmp_path)
    store.put("data/x", b"x")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    for call in ("link", "fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, refuse)
            with pytest.raises(StoreRefused, match=words) as caught:
                store.put_new("data/y", b"y")
        assert str(tmp_path / "data/y") in str(caught.value)
        assert caught.value.hint
    assert list((tmp_path / "_tandem/tmp").iterdir()) == []
    assert keys(store) == ["data/x"]


def test_a_name_that_the_disk_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="the name is too long"):
        LocalStore(tmp_path).put_new("n" * 300, b"x")


def test_writers_and_deleters_of_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    def churn(number: int) -> None:
        for turn in range(30):
            store.put_new(f"deep/er/{number}-{turn}", b"x")
            store.delete([f"deep/er/{number}-{turn}"])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(churn, range(4)))
    assert keys(store) == []
    assert store.folders("") == ["_tandem"]


def test_links_in_a_folder_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "source")
    store.put("a/x", b"1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/y").write_bytes(b"2")
    (tmp_path / "source/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "source/a/up").symlink_to(tmp_path / "source")
    (tmp_path / "source/broken").symlink_to(tmp_path / "nowhere")
    assert "b/y" in keys(store)
    assert store.get("b/y") == b"2"
    assert len(keys(store)) < 5
