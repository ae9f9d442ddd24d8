"""`tandem outputs rollback` and `repair`: change a published dataset."""

import asyncio
from dataclasses import asdict
from pathlib import Path

from pipeline.cli.screen.console import Screen, counted
from pipeline.cli.screen.summary import summary
from pipeline.client.spec_file import read_spec, sink_of
from pipeline.operations.repair import Damage, examine, rebuild, republish
from pipeline.publishing.rollback import rollback
from pipeline.runs.report import as_json, exit_code
from pipeline.settings import expanded
from pipeline.stores import open_store
from schemas.errors import UsageError
from schemas.spec.loading import load_spec


def rollback_command(path: Path, key: str | None, to: int | None, screen: Screen) -> int:
    """Publish a new generation that repeats an earlier one."""
    if key is None:
        raise UsageError("outputs rollback needs the KEY of a partition.", hint="See: tandem outputs ls")
    spec = expanded(load_spec(path))
    base = path.absolute().parent
    manifest, repeated = rollback(spec, base, open_store(spec.sink.path, base=base), key, to)
    if screen.json:
        screen.document(
            {"partition": key, "generation": manifest.generation, "repeats": repeated, "rows": manifest.counts.out}
        )
        return 0
    rows = counted(manifest.counts.out, "row")
    screen.result(f"{key}: generation {manifest.generation} repeats generation {repeated}, {rows}, 0 calls.")
    screen.note("The next tandem run publishes by the spec and the input of that time; undo their change to keep this.")
    return 0


async def repair_command(path: Path, key: str | None, yes: bool, screen: Screen) -> int:
    """Show what is damaged, and with `yes` repair it. Return 1 if something is left."""
    spec, base = read_spec(path)
    store = sink_of(spec, base)
    damage = await asyncio.to_thread(examine, spec, base, store, key)
    report = None
    if yes:
        await asyncio.to_thread(rebuild, spec, base, store, damage)
        if damage.partitions:
            report = await republish(spec, base, damage.partitions)
    if screen.json:
        screen.document(
            {
                "dry_run": not yes,
                "rebuilt": list(damage.rebuild),
                "set_aside": list(damage.aside),
                "republished": list(damage.partitions),
                "left": [asdict(problem) for problem in damage.left],
                "run": as_json(report) if report is not None else None,
            }
        )
    else:
        _show_repaired(damage, yes, screen)
        for text in summary(report) if report is not None else ():
            screen.result(text)
    failed = exit_code(report) if report is not None else 0
    return failed or (1 if damage.left else 0)


def _show_repaired(damage: Damage, yes: bool, screen: Screen) -> None:
    verbs = ("Rebuilt", "Set aside", "Published again") if yes else ("To rebuild", "To set aside", "To publish again")
    for text, names in zip(verbs, (damage.rebuild, damage.aside, damage.partitions), strict=True):
        for name in names:
            screen.result(f"{text}: {name}")
    for problem in damage.left:
        screen.result(f"Not repaired: {problem.message}")
    if not (damage.rebuild or damage.aside or damage.partitions):
        screen.result("Nothing is damaged." if not damage.left else "None of this can be repaired here.")
    elif not yes:
        screen.note(
            "Nothing was changed; add --yes to repair it. Answers come from the journal and are not paid for again."
        )
