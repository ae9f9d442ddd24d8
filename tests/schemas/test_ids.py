"""Partition values become folders, object keys and workflow ids: none may collide with another or leave its place."""

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from schemas import ids, partition_keys

# Text as it comes, and text made of what is special to paths, URLs, Hive and to the encoding itself.
_VALUES = st.one_of(
    st.text(),
    st.text(alphabet="./\\%_-=:~ \0\n7eEA\u00e9\U0001f600"),
    st.text(min_size=40, max_size=400),
    st.sampled_from(
        ["", ".", "..", "...", "_", "__", "%", "%7e", "%7E", "~", "/", "//", "a/../b", "CON", partition_keys.NULL]
    ),
)
_COMPONENT = re.compile(r"(?:[A-Za-z0-9_.-]|%[0-9A-F]{2}|%7e)*")
_LEVELS = st.lists(st.tuples(st.text(min_size=1, max_size=20), st.none() | _VALUES), min_size=1, max_size=3)


@given(_VALUES)
def test_an_encoded_value_is_one_safe_path_component(value: str) -> None:
    encoded = partition_keys.encode_value(value)
    assert _COMPONENT.fullmatch(encoded)
    assert not encoded.startswith(("_", "."))
    assert not encoded.endswith(".")
    assert len(encoded) <= 128


@given(_VALUES)
def test_an_encoded_value_decodes_to_itself_or_says_that_only_its_digest_was_kept(value: str) -> None:
    encoded = partition_keys.encode_value(value)
    decoded = partition_keys.decode_value(encoded)
    assert decoded == value or (decoded is None and len(encoded) > 60)


@given(_VALUES, _VALUES)
def test_two_values_never_share_an_encoding(one: str, other: str) -> None:
    assert (partition_keys.encode_value(one) == partition_keys.encode_value(other)) == (one == other)


def test_values_that_are_cut_differ_by_their_digest() -> None:
    encoded = {partition_keys.encode_value("é" * 200 + str(number)) for number in range(200)}
    assert len(encoded) == 200
    assert max(map(len, encoded)) <= 128


@given(_VALUES)
def test_no_value_looks_like_a_null(value: str) -> None:
    assert partition_keys.encode_value(value) != partition_keys.NULL


@given(_LEVELS)
def test_a_partition_key_gives_its_levels_back(levels: list[tuple[str, str | None]]) -> None:
    parsed = partition_keys.parse_partition_key(partition_keys.partition_key(levels))
    assert len(parsed) == len(levels)
    for (name, value), (parsed_name, parsed_value) in zip(levels, parsed, strict=True):
        assert parsed_name == name or len(partition_keys.encode_value(name)) > 60
        assert parsed_value == value or (parsed_value is None and len(partition_keys.encode_value(value or "")) > 60)


@given(st.sets(_VALUES, min_size=100, max_size=100))
def test_partition_values_stay_in_the_root_and_apart(values: set[str]) -> None:
    root = Path("/srv/sink")
    folders = {(root / ids.data_folder(partition_keys.partition_key([("k", value)]))).resolve() for value in values}
    assert len(folders) == len(values)
    assert all(folder.parent == root / "data" for folder in folders)


@given(_LEVELS, st.integers(1, 10**19))
def test_a_commit_key_names_its_partition_and_generation(levels: list[tuple[str, str | None]], generation: int) -> None:
    partition = partition_keys.partition_key(levels)
    assert ids.parse_commit(ids.commit(partition, generation)) == (partition, generation)


def test_commit_keys_sort_as_their_generations() -> None:
    keys = [ids.commit("day=2026-11-01", generation) for generation in (1, 2, 9, 10, 99, 100, 10**6, 10**12)]
    assert keys == sorted(keys)
