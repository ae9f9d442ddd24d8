"""What a command looks up in its spec before it forks, which is read properly later."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.client.spec_file import uses_in

SPEC = """\
name: x
source: {path: rows.csv}
stages:
  - {name: kept, uses: sql, query: SELECT * FROM rows WHERE stars > 3}
  - {name: said, uses: "graphs:graph", output: {word: str}}
sink: {path: out}
"""


def test_what_the_stages_use_is_found_without_importing_code_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "tandem.yaml").write_text(SPEC)
    assert uses_in(tmp_path / "tandem.yaml") == ["sql", "graphs:graph"]


@pytest.mark.parametrize("text", ["", "stages: [", "name: x", "\x00", SPEC.replace("uses: sql", "uses: 5")])
def test_a_faulty_spec_is_left_to_who_reads_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "tandem.yaml").write_text(text)
    assert uses_in(tmp_path / "tandem.yaml") == []


def test_neither_a_folder_nor_a_pipe_nor_nothing_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert [uses_in(tmp_path / name) for name in ("pipe", "", "absent.yaml")] == [[], [], []]
