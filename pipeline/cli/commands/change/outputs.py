"""`tandem outputs rollback` and `repair`: what changes a published dataset."""

import asyncio
from dataclasses import asdict
from pathlib import Path

from pipeline.cli.screen.console import Screen, counted
from pipeline.cli.screen.results import summary
from pipeline.client.preflight import read_spec, sink_of
from pipeline.operations.repair import Damage, examine, rebuild, republish
from pipeline.publishing.rollback import rollback
from pipeline.runs.report import as_json, exit_code
from pipeline.settings import expanded
from pipeline.stores import open_store
from schemas.errors import UsageError
from schemas.spec.loading import load_spec


def rollback_command(path: Path, key: str | None, to: int | None, screen: Screen) -> int:
    """A new generation that repeats an earlier one."""
    if key is None:
        raise UsageError("outputs rollback takes the KEY of a partition.", hint="See: tandem outputs ls")
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
    screen.say("The next tandem run publishes what the spec and the input say then; undo their change to keep this.")
    return 0


async def repair_command(path: Path, key: str | None, yes: bool, screen: Screen) -> int:
    """Say what is damaged, and with `yes` mend it; exit code 1 where something is left."""
    spec, base = read_spec(path)
    store = sink_of(spec, base)
    damage = await asyncio.to_thread(examine, store, key)
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
        _say_repaired(damage, yes, screen)
        for text in summary(report) if report is not None else ():
            screen.result(text)
    failed = exit_code(report) if report is not None else 0
    return failed or (1 if damage.left else 0)


def _say_repaired(damage: Damage, yes: bool, screen: Screen) -> None:
    did = ("Made again", "Set aside", "Published anew") if yes else ("To make again", "To set aside", "To publish anew")
    for text, names in zip(did, (damage.rebuild, damage.aside, damage.partitions), strict=True):
        for name in names:
            screen.result(f"{text}: {name}")
    for problem in damage.left:
        screen.result(f"Not mended: {problem.message}")
    if not (damage.rebuild or damage.aside or damage.partitions):
        screen.result("Nothing is damaged." if not damage.left else "Nothing of this can be mended here.")
    elif not yes:
        screen.say("Nothing was changed; with --yes it is. Answers come from the journal and are not paid for again.")
