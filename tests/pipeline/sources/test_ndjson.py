"""NDJSON, as it is found in the world."""

import datetime as dt
import json
from pathlib import Path

import pytest

from pipeline.sources import ndjson
from tests.pipeline.sources.reading import csv_rows, refusal


def test_ndjson_keeps_strings_as_text_and_nested_values_as_json(tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "code": "12", "x": {"a": [1, "é"]}, "when": "2026-11-01"}', "", "  ",
        '{"code": "13", "id": 2.5, "flag": true, "empty": ""}', '{"id": null}',
    ]  # fmt: skip
    found = csv_rows(tmp_path, "\ufeff" + "\r\n".join(lines), "in.jsonl")
    nothing = {"code": None, "x": None, "when": None, "flag": None, "empty": None}
    assert found == [
        {**nothing, "id": 1.0, "code": "12", "x": '{"a":[1,"é"]}', "when": dt.date(2026, 11, 1)},
        {**nothing, "id": 2.5, "code": "13", "flag": True, "empty": ""},
        {**nothing, "id": None},
    ]


def test_integers_that_json_readers_round_are_kept(tmp_path: Path) -> None:
    found = csv_rows(tmp_path, '{"a": 12345678901234567890123, "b": 9007199254740993}\n', "in.ndjson")
    assert found == [{"a": "12345678901234567890123", "b": 9007199254740993}]


def test_objects_without_keys_are_rows_of_nulls(tmp_path: Path) -> None:
    assert csv_rows(tmp_path, '{}\n{"a": 1}\n{}\n', "in.ndjson") == [{"a": None}, {"a": 1}, {"a": None}]
    assert "none of its objects has a key" in refusal(tmp_path, "{}\n{}\n", "other.ndjson")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('{"a": 1}\n\n{"a": }\n', "line 3 is not JSON"),
        ('{"a": 1}\n[1]\n', "line 2 is no JSON object"),
        ('[\n{"a": 1}\n]\n', "jq -c '.[]'"),
        (b'{"a": "\xe9"}\n', "line 1 is not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, data: bytes | str, said: str) -> None:
    assert said in refusal(tmp_path, data, "in.ndjson")


def test_ndjson_lines_may_cross_blocks(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ndjson, "BLOCK_BYTES", 100)
        data = "".join(json.dumps({"n": n, "t": "é" * (n % 90)}, ensure_ascii=False) + "\n" for n in range(200))
        assert [row["n"] for row in csv_rows(tmp_path, data, "in.ndjson")] == list(range(200))
