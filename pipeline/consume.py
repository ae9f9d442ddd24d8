"""For readers of a dataset: only committed files, exactly. `from pipeline.consume import scan, files, wait_for`.

What readers import stays here, wherever the code behind it lives.
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
