"""`tandem outputs …`: what is published, from the commits and nothing else."""

import datetime as dt
from pathlib import Path

from pipeline import consume
from pipeline.cli.console import Screen
from pipeline.cli.results import show_rows
from pipeline.settings import expanded
from pipeline.stores import Store, open_store
from schemas.errors import UsageError
from schemas.loading import load_spec

_NOTHING = "Nothing is published yet. Start with: tandem run"


def _sink(path: Path, key: str | None) -> tuple[Store, str | None]:
    """The sink of a spec, and the key that is asked for; a key alone means the spec of this folder."""
    if key is None and "=" in path.name and not path.exists():
        path, key = Path("tandem.yaml"), str(path)
    # Not by `pipeline.preflight`: looking at files must not wait until LangGraph is imported.
    store = open_store(expanded(load_spec(path)).sink.path, base=path.absolute().parent)
    if key is not None and key not in consume.partitions(store):
        raise UsageError(f"{key}: no such partition is published.", hint="See: tandem outputs ls")
    return store, key


def ls_command(path: Path, screen: Screen) -> int:
    """A line a partition."""
    found = list(consume.manifests(_sink(path, None)[0]))
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
    screen.table(
        ("partition", "generation", "rows", "rejected", "bytes", "committed (UTC)", "run", ""),
        [
            (
                m.partition,
                m.generation,
                m.counts.out,
                m.counts.rejected,
                sum(file.size for file in m.files),
                f"{m.committed_at.astimezone(dt.UTC):%Y-%m-%d %H:%M}",
                m.run,
                "" if m.kind == "published" else m.kind,
            )
            for m in found
        ],
    )
    if not found:
        screen.say(_NOTHING)
    return 0


def files_command(path: Path, key: str | None, screen: Screen) -> int:
    """One path a line."""
    found = consume.files(*_sink(path, key))
    if screen.json:
        screen.document(
            [
                {"partition": f.partition, "generation": f.generation, "path": f.path, "rows": f.rows, "bytes": f.bytes}
                for f in found
            ]
        )
        return 0
    for file in found:
        screen.result(file.path)
    if not found:
        screen.say(_NOTHING)
    return 0


def head_command(path: Path, key: str | None, rows: int, screen: Screen) -> int:
    """A table of the first rows."""
    store, key = _sink(path, key)
    frame = consume.head(store, rows, key)
    if screen.json:
        screen.document([] if frame is None else frame.to_dicts())
    elif frame is None:
        screen.say(_NOTHING)
    elif not screen.quiet:
        show_rows(frame, new=frame.columns[-5:])
    return 0
