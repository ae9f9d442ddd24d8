"""`tandem outputs …`: show what is published, read from the commits alone."""

import contextlib
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.cli.arguments import is_key
from pipeline.cli.screen.console import Screen, counted
from pipeline.cli.screen.row_table import show_rows
from pipeline.outputs import garbage, scan
from pipeline.outputs.export import ENDINGS, export
from pipeline.outputs.verify import unique_keys, verify
from pipeline.settings import expanded
from pipeline.sinks.generations import retention_of
from pipeline.sinks.table_formats.follow import lake_of
from pipeline.stores import Store, open_store
from schemas.errors import UsageError
from schemas.spec.loading import load_spec
from schemas.spec.sections import Spec

_NOTHING = "Nothing is published yet. Start with: tandem run"


def _sink(path: Path, key: str | None) -> tuple[Store, str | None]:
    """Return the sink of a spec, and the key. Raises UsageError if the key is not published."""
    store = _open(path)[0]
    if key is not None and key not in scan.partitions(store):
        raise UsageError(f"{key}: no such partition is published.", hint="See: tandem outputs ls")
    return store, key


def _open(path: Path) -> tuple[Store, Spec]:
    """Open the sink without `pipeline.client.preflight`, which would import LangGraph and be slow."""
    spec = expanded(load_spec(path))
    return open_store(spec.sink.path, base=path.absolute().parent), spec


def ls_command(path: Path, key: str | None, screen: Screen) -> int:
    """List partitions."""
    found = list(scan.manifests(*_sink(path, key)))
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
        screen.note(_NOTHING)
    return 0


def files_command(path: Path, key: str | None, screen: Screen) -> int:
    """List paths, one per line."""
    found = scan.files(*_sink(path, key))
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
        screen.note(_NOTHING)
    return 0


def head_command(path: Path, key: str | None, rows: int, screen: Screen) -> int:
    """Show the first rows as a table."""
    store, key = _sink(path, key)
    written = [name for stage in _open(path)[1].stages for name in stage.output]
    frame = scan.head(store, rows, key)
    if screen.json:
        screen.document([] if frame is None else frame.to_dicts())
    elif frame is None:
        screen.note(_NOTHING)
    elif not screen.quiet:
        show_rows(frame, new=[name for name in frame.columns if name in written] or frame.columns[-5:])
    return 0


def verify_command(path: Path, key: str | None, screen: Screen) -> int:
    """List problems, one per line. Return 1 if there are any."""
    store, key = _sink(path, key)
    spec = expanded(load_spec(path))
    lake = lake_of(spec, path.absolute().parent, store)
    with contextlib.closing(lake) if lake is not None else contextlib.nullcontext():
        found = verify(store, key, lake=lake, unique=unique_keys(spec))
    if screen.json:
        screen.document({**asdict(found), "ok": not found.problems})
        return 1 if found.problems else 0
    for problem in found.problems:
        screen.result(f"{problem.kind}: {problem.message}")
    for note in found.notes:
        screen.note(note)
    read = f"{counted(found.files, 'file')} of {counted(found.partitions, 'partition')}, {found.bytes:,} bytes"
    screen.result(f"{read}: {counted(len(found.problems), 'problem') if found.problems else 'all is as published'}.")
    return 1 if found.problems else 0


def export_command(arguments: Sequence[str], screen: Screen) -> int:
    """Write what is published to one file. SPEC and KEY may be left out; the file is recognised by its extension."""
    with_extension = [index for index, text in enumerate(arguments) if text.endswith(ENDINGS)]
    files = [index for index in with_extension if not is_key(arguments[index])] or with_extension
    if not files or len(arguments) > 3:
        raise UsageError(
            "outputs export takes [SPEC] [KEY] and one file that ends in .csv, .parquet or .ndjson.",
            hint="For example: tandem outputs export all.csv",
        )
    target = Path(arguments[files[-1]])
    rest = [text for index, text in enumerate(arguments) if index != files[-1]]
    keys = [text for text in rest if is_key(text)]
    specs = [text for text in rest if text not in keys]
    if len(keys) > 1 or len(specs) > 1:
        raise UsageError(f"outputs export: {rest} are not a SPEC and a KEY.", hint="See: tandem outputs export --help")
    store, key = _sink(Path(specs[0] if specs else "tandem.yaml"), keys[0] if keys else None)
    rows = export(store, key, target)
    if screen.json:
        screen.document({"path": str(target.absolute()), "rows": rows, "bytes": target.stat().st_size})
    else:
        screen.result(f"{counted(rows, 'row')} in {target}.")
    return 0


_DRY = "Nothing was removed; add --yes to remove them."


def gc_command(path: Path, key: str | None, older_than: dt.timedelta, yes: bool, screen: Screen) -> int:
    """List removable objects (of one partition) by kind; with `yes` remove them."""
    store, spec = _open(path)
    now = dt.datetime.now(dt.UTC)
    found = garbage.find(store, key, older_than=older_than, retention=retention_of(spec.sink), now=now)
    objects = garbage.remove(store, found) if yes else found.objects
    number, size = Counter(item.kind for item in objects), Counter[str]()
    for item in objects:
        size[item.kind] += item.size
    runs = sorted(found.in_use.runs)
    if screen.json:
        screen.document(
            {
                "dry_run": not yes,
                "objects": len(objects),
                "bytes": size.total(),
                "kinds": {kind: {"objects": number[kind], "bytes": size[kind]} for kind in sorted(number)},
                "keys": [item.key for item in objects],
                "kept": found.kept,
                "open_runs": runs,
            }
        )
        return 0
    screen.table(("kind", "objects", "bytes"), [(kind, number[kind], size[kind]) for kind in sorted(number)])
    verb = "removed" if yes else "to remove"
    screen.result(f"{counted(len(objects), 'object')}, {size.total():,} bytes {verb}.")
    if found.kept:
        screen.note(
            f"{counted(found.kept, 'object')} kept for open runs: {', '.join(runs[:5])}{' …' if len(runs) > 5 else ''}."
        )
    if not yes and objects:
        screen.note(_DRY)
    return 0
