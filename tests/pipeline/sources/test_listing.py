"""What there is to read: files, folders, globs, links."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.sources.listing import list_source, translate_glob
from schemas.errors import SourceError
from schemas.spec.sections import Source
from tests.pipeline.sources.reading import snap, write


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv", ".hidden.csv", "_tmp.csv", "_sub/e.csv", ".git/f.csv",
                 "sub/_SUCCESS", "README.md", "x[1].csv"):  # fmt: skip
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("a\n1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("in", ["a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv", "x[1].csv"]),
        ("in/", ["a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv", "x[1].csv"]),
        ("in/*.csv", ["a.csv", "b.csv", "x[1].csv"]),
        ("in/**/*.csv", ["a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv", "x[1].csv"]),
        ("in/*/*.csv", ["sub/c.csv"]),
        ("in/**", ["a.csv", "b.csv", "sub/c.csv", "sub/deep/d.csv", "x[1].csv"]),
        ("in/?.csv", ["a.csv", "b.csv"]),
        ("in/[!a].csv", ["b.csv"]),
        ("in/[a-b].csv", ["a.csv", "b.csv"]),
        ("in/sub/**/d.csv", ["deep/d.csv"]),
        ("in/x[1].csv", ["x[1].csv"]),
        ("in/a.csv", ["a.csv"]),
        ("in/_tmp.csv", ["_tmp.csv"]),
        ("./in/../in/a.csv", ["a.csv"]),
    ],
)
def test_a_path_is_a_file_a_folder_or_a_glob(tree: Path, path: str, names: list[str]) -> None:
    assert [file.relative for file in list_source(Source(path=path), tree).files] == names


def test_a_glob_matches_like_a_shell() -> None:
    for pattern, name, matches in [
        ("a*b", "a/b", False), ("a?b", "a/b", False), ("a[!x]b", "a/b", False), ("a[^x]b", "a^b", True),
        ("**/b", "b", True),
        ("**/b", "a/c/b", True), ("**/b", "ab", False), ("a**b", "a/x/b", True), ("a.b", "axb", False),
        ("a[b", "a[b", True),
        ("[]]", "]", True), ("a(b)+", "a(b)+", True), ("[.*]", "x", False), ("[.*]", "*", True),
    ]:  # fmt: skip
        assert bool(re.fullmatch(translate_glob(pattern), name)) == matches, (pattern, name)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("absent.csv", "no such file or folder"), ("absent/*.csv", "nothing there"), ("in/*.parquet", "nothing there"),
        ("empty", "nothing there"), ("zero.csv", "the file is empty"), ("zeros", "all files are empty"),
        ("mixed", "several formats (csv, parquet)"), ("in/README.md", "no file of a known ending"),
    ],
)  # fmt: skip
def test_a_source_that_is_not_there_is_one_sentence(tree: Path, path: str, said: str) -> None:
    (tree / "empty/.hidden").mkdir(parents=True)
    for name in ("zero.csv", "zeros/a.csv", "zeros/b.csv", "mixed/a.csv", "mixed/b.parquet"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"a" if name.startswith("mixed") else b"")
    with pytest.raises(SourceError) as caught:
        list_source(Source(path=path), tree)
    assert said in str(caught.value)
    assert repr(path) in str(caught.value)


def test_a_given_format_chooses_among_endings(tree: Path) -> None:
    write(tree / "in/p.parquet", {"a": [1]})
    assert {f.relative for f in list_source(Source(path="in", format="parquet"), tree).files} == {"p.parquet"}
    assert len(list_source(Source(path="in", format="csv"), tree).files) == 5
    assert list_source(Source(path="in/README.md", format="csv"), tree).format == "csv"


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match="deep cannot be listed: Permission denied"):
        list_source(Source(path="in"), tree)


def test_links_are_followed_but_not_for_ever(tree: Path) -> None:
    (tree / "in/sub/loop").symlink_to(tree / "in")
    (tree / "elsewhere").mkdir()
    (tree / "elsewhere/z.csv").write_text("a\n1\n")
    (tree / "in/linked").symlink_to(tree / "elsewhere")
    names = [file.relative for file in list_source(Source(path="in"), tree).files]
    assert "linked/z.csv" in names
    assert len(names) == 6
    (tree / "in/gone.csv").symlink_to(tree / "nowhere")
    with pytest.raises(SourceError, match=r"gone\.csv cannot be read"):
        list_source(Source(path="in"), tree)


def test_a_key_that_is_no_column_is_refused_also_where_the_snapshot_is_there(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    snap(tmp_path, "in.csv")
    for key in (["a"], "b"):
        snap(tmp_path, "in.csv", key=key)
    with pytest.raises(SourceError, match=r"source\.key names 'c'") as caught:
        snap(tmp_path, "in.csv", key=["a", "c"])
    assert "a, b" in caught.value.hint
