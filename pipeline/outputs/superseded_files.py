"""A read-only Arrow file system over committed files: one that a later commit has moved is read on from history."""

from collections.abc import Mapping
from typing import Any, NoReturn

import pyarrow as pa
from pyarrow import fs

from pipeline.outputs.reader import CommittedPart, superseded
from pipeline.sinks.generations import locate


class SupersededFiles(fs.FileSystemHandler):  # type: ignore[misc]
    """`parts` are the committed files by their path in `system`."""

    def __init__(self, system: fs.FileSystem, parts: Mapping[str, CommittedPart]) -> None:
        self._system = system
        self._parts = parts

    def get_type_name(self) -> str:
        return "tandem"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> Any:
        return self._system.get_file_info([self._present(path) for path in paths])

    def get_file_info_selector(self, selector: fs.FileSelector) -> Any:
        return self._system.get_file_info(selector)

    def open_input_file(self, path: str) -> pa.NativeFile:
        try:
            return self._system.open_input_file(path)
        except FileNotFoundError:
            return self._system.open_input_file(self._present(path))

    def open_input_stream(self, path: str) -> pa.NativeFile:
        try:
            return self._system.open_input_stream(path)
        except FileNotFoundError:
            return self._system.open_input_stream(self._present(path))

    def _present(self, path: str) -> str:
        """Return the path where the file is now. Raises GenerationSuperseded where it is gone."""
        part = self._parts.get(path)
        if part is None:
            return path
        key = locate(part.store, part.key)
        if key is None:
            raise superseded(part.store, part.key)
        return str(part.store.arrow_path(key)[1])

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise OSError("Committed files are read only; tandem run publishes new ones.")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = _refuse
    move = copy_file = open_output_stream = open_append_stream = _refuse
