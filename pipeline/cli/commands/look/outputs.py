"""`tandem outputs …`: what is published, from the commits and nothing else."""

import contextlib
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.cli.arguments import is_key
from pipeline.cli.screen.console import Screen, counted
from pipeline.cli.screen.results import show_rows
from pipeline.outputs import garbage, scan
from pipeline.outputs.export import ENDINGS, export
from pipeline.outputs.verify import verify
from pipeline.settings import expanded
from pipeline.sinks.generations import retention_of
from pipeline.sinks.table_formats.follow import lake_of
from pipeline.stores import Store, open_store
from schemas.errors import UsageError
from schemas.spec.loading import load_spec
from schemas.spec.sections import Spec

_NOTHING = "Nothing is published yet. Start with: tandem run"


def _sink(path: Path, key: str | None) -> tuple[Store, str | None]:
    """The sink of a spec, and the key that is asked for. Raises UsageError for one that is not published."""
    store = _open(path)[0]
    if key is not None and key not in scan.partitions(store):
        raise UsageError(f"{key}: no such partition is published.", hint="See: tandem outputs ls")
    return store, key


def _open(path: Path) -> tuple[Store, Spec]:
    """Not by `pipeline.client.preflight`: looking at files must not wait until LangGraph is imported."""
    spec = expanded(load_spec(path))
    return open_store(spec.sink.path, base=path.absolute().parent), spec


def ls_command(path: Path, key: str | None, screen: Screen) -> int:
    """A line a partition."""
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
        screen.say(_NOTHING)
    return 0


def files_command(path: Path, key: str | None, screen: Screen) -> int:
    """One path a line."""
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
        screen.say(_NOTHING)
    return 0


def head_command(path: Path, key: str | None, rows: int, screen: Screen) -> int:
    """A table of the first rows."""
    store, key = _sink(path, key)
    written = [name for stage in _open(path)[1].stages for name in stage.output]
    frame = scan.head(store, rows, key)
    if screen.json:
        screen.document([] if frame is None else frame.to_dicts())
    elif frame is None:
        screen.say(_NOTHING)
    elif not screen.quiet:
        show_rows(frame, new=[name for name in frame.columns if name in written] or frame.columns[-5:])
    return 0


def verify_command(path: Path, key: str | None, screen: Screen) -> int:
    """A line a problem; exit code 1 where there is one."""
    store, key = _sink(path, key)
    lake = lake_of(expanded(load_spec(path)), path.absolute().parent, store)
    with contextlib.closing(lake) if lake is not None else contextlib.nullcontext():
        found = verify(store, key, lake=lake)
    if screen.json:
        screen.document({**asdict(found), "ok": not found.problems})
        return 1 if found.problems else 0
    for problem in found.problems:
        screen.result(f"{problem.kind}: {problem.message}")
    for note in found.notes:
        screen.say(note)
    read = f"{counted(found.files, 'file')} of {counted(found.partitions, 'partition')}, {found.bytes:,} bytes"
    screen.result(f"{read}: {counted(len(found.problems), 'problem') if found.problems else 'all is as published'}.")
    return 1 if found.problems else 0


def export_command(arguments: Sequence[str], screen: Screen) -> int:
    """One file of what is published. SPEC and KEY may be left out; the file is told by its ending."""
    ending = [at for at, text in enumerate(arguments) if text.endswith(ENDINGS)]
    files = [at for at in ending if not is_key(arguments[at])] or ending
    if not files or len(arguments) > 3:
        raise UsageError(
            "outputs export takes [SPEC] [KEY] and one file that ends in .csv, .parquet or .ndjson.",
            hint="For example: tandem outputs export all.csv",
        )
    target = Path(arguments[files[-1]])
    rest = [text for at, text in enumerate(arguments) if at != files[-1]]
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


_DRY = "Nothing was removed; with --yes it is."


def gc_command(path: Path, key: str | None, older_than: dt.timedelta, yes: bool, screen: Screen) -> int:
    """What may go (of one partition), by kind; and with `yes` it goes."""
    store, spec = _open(path)
    now = dt.datetime.now(dt.UTC)
    found = garbage.find(store, key, older_than=older_than, retention=retention_of(spec.sink), now=now)
    litter = garbage.remove(store, found) if yes else found.litter
    number, size = Counter(one.kind for one in litter), Counter[str]()
    for one in litter:
        size[one.kind] += one.size
    runs = sorted(found.held.runs)
    if screen.json:
        screen.document(
            {
                "dry_run": not yes,
                "objects": len(litter),
                "bytes": size.total(),
                "kinds": {kind: {"objects": number[kind], "bytes": size[kind]} for kind in sorted(number)},
                "keys": [one.key for one in litter],
                "kept": found.kept,
                "open_runs": runs,
            }
        )
        return 0
    screen.table(("kind", "objects", "bytes"), [(kind, number[kind], size[kind]) for kind in sorted(number)])
    did = "removed" if yes else "to remove"
    screen.result(f"{counted(len(litter), 'object')}, {size.total():,} bytes {did}.")
    if found.kept:
        screen.say(
            f"{counted(found.kept, 'object')} kept for open runs: {', '.join(runs[:5])}{' …' if len(runs) > 5 else ''}."
        )
    if not yes and litter:
        screen.say(_DRY)
    return 0
