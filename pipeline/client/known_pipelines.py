"""The pipelines that this folder has run: by them `tandem runs` and `tandem outputs` find sinks without a spec."""

from pathlib import Path

import orjson

from pipeline.client.spec_file import read_spec, sink_of
from pipeline.settings import home_of
from pipeline.stores import Store, open_store
from schemas.errors import UsageError
from schemas.manifest import Noun

DEFAULT_SPEC = Path("tandem.yaml")


class KnownPipeline(Noun):
    pipeline: str
    sink: str
    spec: str


def remember(pipeline: str, store: Store, base: Path, spec: Path) -> None:
    """Record the sink of a pipeline; `base` is the folder of its file `spec`. Best effort: a folder that cannot be
    written does not stop a run."""
    folder = home_of(base) / "pipelines"
    known = KnownPipeline(pipeline=pipeline, sink=store.uri, spec=str(spec.absolute()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{known.pipeline}.json").write_text(known.model_dump_json())
    except OSError:
        return


def pipelines(folder: Path) -> list[KnownPipeline]:
    """Return the pipelines that ran from here, and that of `./tandem.yaml` if it exists, by name."""
    found: dict[str, KnownPipeline] = {}
    for path in sorted((home_of(folder) / "pipelines").glob("*.json")):
        known = KnownPipeline.model_validate(orjson.loads(path.read_bytes()))
        found[known.pipeline] = known
    if (folder / DEFAULT_SPEC).exists():
        spec, base = read_spec(folder / DEFAULT_SPEC)
        path = (folder / DEFAULT_SPEC).absolute()
        found[spec.name] = KnownPipeline(pipeline=spec.name, sink=sink_of(spec, base).uri, spec=str(path))
    return list(found.values())


def sinks(folder: Path) -> dict[str, Store]:
    """Return pipeline → sink: of `./tandem.yaml` if it exists, and of those that ran from here. Raises UsageError."""
    found = {known.pipeline: open_store(known.sink) for known in pipelines(folder)}
    if not found:
        raise UsageError(
            f"No pipeline has run from {folder}, and there is no tandem.yaml.",
            hint="Go to the folder of the spec, or write one with: tandem init DIR",
        )
    return found
