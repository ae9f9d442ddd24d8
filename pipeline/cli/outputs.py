"""`tandem outputs …`: what is published, from the commits and nothing else."""

from pathlib import Path

from pipeline import consume
from pipeline.cli.console import Screen
from pipeline.cli.results import show_rows
from pipeline.preflight import read_spec, sink_of
from pipeline.stores import Store
from schemas.errors import UsageError


def _sink(path: Path, key: str | None = None) -> Store:
    spec, base = read_spec(path)
    store = sink_of(spec, base)
    if key is not None and key not in consume.partitions(store):
        raise UsageError(f"{key}: no such partition is published.", hint="See: tandem outputs ls")
    return store


def ls_command(path: Path, screen: Screen) -> int:
    """A line a partition."""
    found = list(consume.manifests(_sink(path)))
    if screen.json:
        screen.document(
            [
                {
                    "partition": m.partition,
                    "generation": m.generation,
                    "kind": m.kind,
                    "rows": m.counts.out,
                    "rejected": m.counts.rejected,
                    "bytes": sum(file.size for file in m.files),
                    "run": m.run,
                    "committed_at": m.committed_at.isoformat(timespec="seconds"),
                }
                for m in found
            ]
        )
        return 0
    for m in found:
        size = sum(file.size for file in m.files)
        rejected = f", {m.counts.rejected:,} rejected" if m.counts.rejected else ""
        screen.result(
            f"{m.partition}  {m.kind}  generation {m.generation}  {m.counts.out:,} rows{rejected}  {size:,} bytes  "
            f"{m.committed_at:%Y-%m-%d %H:%M}  {m.run}"
        )
    if not found:
        screen.say("Nothing is published yet. Start with: tandem run")
    return 0


def files_command(path: Path, key: str | None, screen: Screen) -> int:
    """One path a line."""
    found = consume.files(_sink(path, key), key)
    if screen.json:
        screen.document(
            [
                {"partition": f.partition, "generation": f.generation, "path": f.path, "rows": f.rows, "bytes": f.bytes}
                for f in found
            ]
        )
    for file in found:
        screen.result(file.path)
    return 0


def head_command(path: Path, key: str | None, rows: int, screen: Screen) -> int:
    """A table of the first rows."""
    frame = consume.head(_sink(path, key), rows, key)
    if screen.json:
        screen.document([] if frame is None else frame.to_dicts())
    elif frame is None:
        screen.say("Nothing is published yet. Start with: tandem run")
    else:
        show_rows(frame, new=frame.columns[-5:])
    return 0
