"""The spec of a command, and its sink: all that looking at a pipeline needs, without building its stages."""

from pathlib import Path

from pipeline.settings import expanded
from pipeline.stores import Store, open_store
from schemas.errors import TandemError
from schemas.spec.loading import load_spec
from schemas.spec.sections import Spec


def read_spec(path: Path) -> tuple[Spec, Path]:
    """Return the spec and its folder."""
    return load_spec(path), path.absolute().parent


def uses_in(path: Path) -> list[str]:
    """Return what the stages of a spec use; nothing of a faulty spec, which is refused where it is read, nor of a pipe,
    which can be read but once."""
    if not path.is_file():
        return []
    try:
        return [stage.uses for stage in load_spec(path).stages]
    except TandemError:
        return []


def sink_of(spec: Spec, base: Path) -> Store:
    return open_store(expanded(spec).sink.path, base=base)
