"""YAML as plain data: what could do harm is refused at once, and scalars are what they look like."""

from pathlib import Path

import pytest

from schemas.errors import SpecError
from schemas.spec.document import load_document, parse_document


def bomb() -> str:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{at}: &a{at} [{','.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "anchors"),
        ("a: *nothing", "aliases"),
        ("a: &x 1", "anchors"),
        ("a: &x {b: 1}", "anchors"),
        ("a: !!python/object/apply:os.system ['true']", "tag"),
        ("a: !!str 5", "tag"),
        ("a: !thing {b: 1}", "tag"),
        ("a: ! 5", "tag"),
        ("[" * 100_000, "nested deeper than 50"),
        ("{a: " * 100_000, "nested deeper than 50"),
        ("- " * 300_000, "nested deeper than 50"),
        ("? " * 300_000, "nested deeper than 50"),
        ("- a\n" * 240_000, "more than 50,000 values"),
        ("x" * 1_000_001, "1,000,000 bytes"),
        ("é" * 500_001, "1,000,000 bytes"),
        ("a: 1\nb: 2\na: 3\n", "spec:3: the key 'a' appears twice"),
        ("a: 1\nb:\n  c: 1\n  'c': 2\n", "spec:4: the key 'c' appears twice"),
        ("a: 1\nb: [1, 2", "not valid YAML"),
        ("a: 1\nb: 'open", "not valid YAML"),
        ("a: b: c", "spec:1: not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: 1\nb: \x07", "spec:2: the character '\\x07'"),
        ("a: 1\n\tb: 2", "spec:2: not valid YAML"),
        ("[1, 2]: 3", "a key must be plain text"),
    ],
)
def test_harm_is_refused_with_the_line(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=r"^spec") as caught:
        parse_document(text)
    assert said in caught.value.message


def test_fifty_levels_are_enough_for_anybody() -> None:
    assert parse_document("[" * 50 + "]" * 50).data
    with pytest.raises(SpecError):
        parse_document("[" * 51 + "]" * 51)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("NO", "NO"),
        ("true", True), ("False", False), ("012", "012"), ("-07", "-07"), ("0", 0), ("-5", -5), ("+5", 5),
        ("12:30:45", "12:30:45"), ("1e3", 1000.0), ("1e3x", "1e3x"), ("1.5", 1.5), (".5", ".5"), ("1_000", "1_000"),
        ("0x1F", "0x1F"), ("0o17", "0o17"), (".inf", ".inf"), (".nan", ".nan"), ("1e999", "1e999"),
        ("2026-11-01", "2026-11-01"), ("2026-11-01 10:00:00", "2026-11-01 10:00:00"),
        ("null", None), ("~", None), ("", None), ("'null'", "null"), ('"5"', "5"), ("'true'", "true"), ("=", "="),
        ("<<", "<<"), ("99999999999999999999999", "99999999999999999999999"), ("|\n  5", "5"),
    ],
)  # fmt: skip
def test_scalars_are_what_they_look_like(written: str, value: object) -> None:
    found = parse_document(f"a: {written}").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text() -> None:
    assert parse_document("{1: a, no: b, null: c, 1.0: d}").data == {"1": "a", "no": "b", "null": "c", "1.0": "d"}


def test_each_location_has_its_line() -> None:
    document = parse_document("a: 1\nb:\n  - x\n  - c: 2\n\n    d: 3\n")
    assert [document.line(at) for at in [("a",), ("b", 0), ("b", 1, "c"), ("b", 1, "d")]] == [1, 3, 4, 6]
    assert document.line(("b", 1, "absent")) == 4


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfa: \xc3\xa9\r\n", "a: é\n".encode()])
def test_a_file_is_utf8_with_or_without_mark(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tandem.yaml"
    path.write_bytes(data)
    assert load_document(path).data == {"a": "é"}


def test_a_file_that_cannot_be_read_is_named_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    for name, said in [("absent.yaml", "no such file"), (".", "a folder"), ("latin.yaml", "not UTF-8")]:
        with pytest.raises(SpecError, match=said) as caught:
            load_document(tmp_path / name)
        assert str(tmp_path) in caught.value.message
        assert caught.value.hint


def test_an_endless_file_is_refused_at_once() -> None:
    with pytest.raises(SpecError, match="more than 1,000,000 bytes"):
        load_document(Path("/dev/zero"))
