"""Source and sink in S3, and the store away, slow to answer, or answering falsely; and a model that is away."""

from __future__ import annotations

import contextlib
import io
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pipeline.stores import Store, open_store
from tests.faults.conftest import MakeRig
from tests.faults.rig import IN_FLIGHT, Rig, Twins, measured, spec_of, table
from tests.harness.fault_proxy import FaultProxy
from tests.harness.model_server import ModelServer
from tests.harness.servers import SeaweedS3

# Real processes and real seconds. In full by `make prove`, on a quiet machine; CI runs the reduced ones.
pytestmark = pytest.mark.timeout(900)


@contextlib.contextmanager
def rig_on_s3(
    folder: Path,
    model: ModelServer,
    seaweed: SeaweedS3,
    bucket: str,
    rows: pl.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str | None = None,
) -> Iterator[Rig]:
    """A rig whose table and sink lie in a bucket; `endpoint` is where `tandem` finds it, this process goes straight."""
    for name, value in seaweed.env().items():
        monkeypatch.setenv(name, value)
    seaweed.bucket(bucket)
    spec = spec_of(source=f"s3://{bucket}/in/rows.parquet", sink=f"s3://{bucket}/out")
    rig = Rig(folder, model, rows, spec, env=seaweed.env(endpoint))
    data = io.BytesIO()
    rows.write_parquet(data)
    source = open_store(f"s3://{bucket}")
    source.put("in/rows.parquet", data.getvalue())
    source.close()
    rig.store = open_store(f"s3://{bucket}/out")
    try:
        yield rig
    finally:
        rig.store.close()


def _commits(store: Store) -> int:
    return len(list(store.list("_tandem/commits/")))


@pytest.mark.parametrize("count", [240, pytest.param(800, marks=pytest.mark.prove)])
def test_s3_dies_and_comes_back(
    tmp_path: Path, model_server: ModelServer, twins: Twins, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """SIGKILL of the store in mid-run, 5 s down: the run carries on by itself, no acknowledged object is lost."""
    model_server.script({"latency_ms": 200})
    rows = table(count)
    with (
        SeaweedS3.start(tmp_path / "weed") as seaweed,
        rig_on_s3(tmp_path / "rig", model_server, seaweed, "killed", rows, monkeypatch) as rig,
    ):
        twin = twins.of(rig)
        with rig.read(), rig.run() as process:
            rig.answered(3 * count // 8)
            seaweed.kill()
            time.sleep(5)
            seaweed.restart()
            back = time.monotonic()
            report = process.wait(120).ok().json
            took = time.monotonic() - back
        rig.check(twin, again=IN_FLIGHT)
        measured("S3 SIGKILL", billed=rig.billed, needed=twin.calls, after_s=round(took, 1), usage=report["usage"])


@pytest.mark.parametrize(
    ("faults", "what"),
    [
        ({"error": {"rate": 0.2, "seed": 1}}, "errors"),
        ({"drop_reply": {"method": "PUT", "rate": 0.2, "seed": 2}}, "dropped"),
        pytest.param({"cut_body": {"method": "PUT", "rate": 0.1, "seed": 3}}, "cut", marks=pytest.mark.prove),
        pytest.param({"drop_reply": {"method": "PUT", "path": "_tandem/commits"}}, "dropped", marks=pytest.mark.prove),
    ],
    ids=["a fifth 503", "replies dropped", "bodies cut", "the reply of each commit dropped"],
)
def test_s3_behind_a_bad_wire(
    tmp_path: Path,
    model_server: ModelServer,
    twins: Twins,
    seaweed: SeaweedS3,
    monkeypatch: pytest.MonkeyPatch,
    faults: dict[str, object],
    what: str,
) -> None:
    """503 at a fifth of all requests, lost replies of PUTs that took place, bodies cut: no loss, no false conflict."""
    model_server.script({"latency_ms": 50})
    bucket = f"wire-{uuid.uuid4().hex[:12]}"
    with (
        FaultProxy.start(seaweed.port) as proxy,
        rig_on_s3(tmp_path / "rig", model_server, seaweed, bucket, table(120), monkeypatch, proxy.url) as rig,
    ):  # fmt: skip
        twin = twins.of(rig)
        proxy.set(**faults)
        with rig.read(), rig.run() as process:
            report = process.wait(120).ok().json
        stats = proxy.stats()
        proxy.clear()
        assert getattr(stats, what) > 0
        assert _commits(rig.store) == 2
        rig.check(twin, again=0)
        measured(f"S3 {what}", hits=getattr(stats, what), billed=rig.billed, needed=twin.calls, usage=report["usage"])


@pytest.mark.prove
def test_a_model_outage_rejects_no_row(make_rig: MakeRig, twins: Twins) -> None:
    """Connections refused for 10 s, then HTTP 500 for 5 s, then all is well: everything is done, nothing rejected."""
    rig = make_rig(table(800), latency_ms=100)
    twin = twins.of(rig)
    with FaultProxy.start(rig.model.port) as proxy:
        rig.env["OPENAI_BASE_URL"] = f"{proxy.url}/v1"
        with rig.read(), rig.run() as process:
            rig.answered(300)
            proxy.set(refuse=True)
            time.sleep(10)
            proxy.set(error={"rate": 1.0, "status": 500})
            time.sleep(5)
            proxy.clear()
            report = process.wait(150).ok().json
    rig.check(twin, again=IN_FLIGHT)
    assert report["rows"]["rejected"] == 0
    measured("model outage", billed=rig.billed, needed=twin.calls, usage=report["usage"])
