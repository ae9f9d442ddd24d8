"""Read a dataset: exactly its committed files. `from pipeline.consume import scan, files, wait_for`.

These names stay here, wherever the code behind them moves.
"""

from pipeline.outputs.scan import (
    CommittedFile,
    GenerationSuperseded,
    VersionsDiffer,
    dataset,
    files,
    head,
    manifests,
    partitions,
    scan,
    wait_for,
)

__all__ = [
    "CommittedFile",
    "GenerationSuperseded",
    "VersionsDiffer",
    "dataset",
    "files",
    "head",
    "manifests",
    "partitions",
    "scan",
    "wait_for",
]
