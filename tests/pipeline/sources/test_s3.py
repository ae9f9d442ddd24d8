"""A source in S3."""

import gzip
import uuid
from pathlib import Path

import pytest

from pipeline.sources.listing import list_source
from pipeline.sources.small_files import read_ahead
from pipeline.sources.split import snapshot_of
from pipeline.stores import open_store
from schemas.errors import InputChanged, SourceError
from tests.harness.fault_proxy import FaultProxy
from tests.harness.servers import SeaweedS3
from tests.pipeline.sources.reading import rows, snap, spec_of, write


@pytest.fixture
def bucket(seaweed: SeaweedS3, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in seaweed.env().items():
        monkeypatch.setenv(name, value)
    return seaweed.bucket(f"sources-{uuid.uuid4().hex[:8]}")


def test_objects_are_read_like_files(bucket: str, seaweed: SeaweedS3, tmp_path: Path) -> None:
    client = seaweed.client()
    for at, name in enumerate(["raw/k=1/a.parquet", "raw/k=2/b.parquet", "raw/_tmp/c.parquet", "raw/k=1/.d.parquet"]):
        write(tmp_path / "x.parquet", {"v": [at * 10, at * 10 + 1]})
        client.put_object(Bucket=bucket, Key=name, Body=(tmp_path / "x.parquet").read_bytes())
    client.put_object(Bucket=bucket, Key="one.csv.gz", Body=gzip.compress(b"a,b\n1,x\n"))
    client.put_object(Bucket=bucket, Key="raw/k=1/", Body=b"")
    client.close()
    for path in ("raw/**/*.parquet", "raw", "raw/", "raw/k=?/*.parquet"):
        found = snap(tmp_path, f"s3://{bucket}/{path}", {"by": "hive"})
        assert rows(found) == [{"v": v, "k": k} for v, k in [(0, "1"), (1, "1"), (10, "2"), (11, "2")]]
        assert not found.info.files[0].staged
    assert snap(tmp_path, f"s3://{bucket}/raw/**/b.parquet").partitions == ["file=k%3D2%2Fb.parquet"]
    assert rows(snap(tmp_path, f"s3://{bucket}/one.csv.gz")) == [{"a": 1, "b": "x"}]
    for path in ("absent.csv", "absent/", "raw/*.csv"):
        with pytest.raises(SourceError, match="nothing there"):
            snap(tmp_path, f"s3://{bucket}/{path}")


def test_an_object_that_changes_is_noticed(bucket: str, seaweed: SeaweedS3, tmp_path: Path) -> None:
    client = seaweed.client()
    write(tmp_path / "x.parquet", {"v": [1]})
    client.put_object(Bucket=bucket, Key="a.parquet", Body=(tmp_path / "x.parquet").read_bytes())
    found = snapshot_of(spec_of(f"s3://{bucket}/a.parquet"), tmp_path, open_store(f"s3://{bucket}/sink"), pinned={})
    assert rows(found) == [{"v": 1}]
    write(tmp_path / "x.parquet", {"v": [2]})
    client.put_object(Bucket=bucket, Key="a.parquet", Body=(tmp_path / "x.parquet").read_bytes())
    with pytest.raises(InputChanged):
        rows(found)
    client.delete_object(Bucket=bucket, Key="a.parquet")
    client.close()
    with pytest.raises(InputChanged):
        rows(found)


def test_a_small_object_is_one_request(
    bucket: str, seaweed: SeaweedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = seaweed.client()
    for number in range(90):
        client.put_object(Bucket=bucket, Key=f"in/{number:02d}.csv", Body=f"id\n{number}\n".encode())
    client.close()
    path = f"s3://{bucket}/in/*.csv"
    with FaultProxy.start(seaweed.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        found = snap(tmp_path, path)
        asked = proxy.stats().requests
    assert [row["id"] for row in rows(found)] == list(range(90)), "in the order of their names"
    assert asked["GET"] == 90
    assert asked["HEAD"] <= 1, "of the path itself"


def test_a_small_object_that_changes_after_it_was_listed_is_noticed(
    bucket: str, seaweed: SeaweedS3, tmp_path: Path
) -> None:
    client = seaweed.client()
    client.put_object(Bucket=bucket, Key="a.csv", Body=b"id\n1\n")
    (file,) = list_source(spec_of(f"s3://{bucket}/a.csv").source, tmp_path).files
    assert [one.content for one in read_ahead([file])] == [b"id\n1\n"]
    client.put_object(Bucket=bucket, Key="a.csv", Body=b"id\n2\n")
    with pytest.raises(InputChanged):
        list(read_ahead([file]))
    client.delete_object(Bucket=bucket, Key="a.csv")
    client.close()
    with pytest.raises(InputChanged):
        list(read_ahead([file]))
