"""User code is imported by reference and digested with the modules beside it that it imports."""

import importlib
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from schemas.errors import SpecError
from stages.user_code import add_user_folder, code_digest, load_attribute

_numbers = count()
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes a module and returns its unique name; afterwards nothing of it is left."""
    before, modules = list(sys.path), set(sys.modules)
    add_user_folder(tmp_path)

    def written(source: str, name: str | None = None) -> str:
        name = name or f"code_of_a_user_{next(_numbers)}"
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        importlib.invalidate_caches()
        return name

    yield written
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_an_attribute_is_found_in_the_folder_of_the_spec(write: Write) -> None:
    assert load_attribute(f"{write('x = 7')}:x", where="stage a") == 7


def test_the_folder_comes_last_and_once(tmp_path: Path) -> None:
    before = list(sys.path)
    try:
        add_user_folder(tmp_path)
        add_user_folder(tmp_path)
        assert sys.path == [*before, str(tmp_path)]
    finally:
        sys.path[:] = before


@pytest.mark.parametrize("name", ["stages.py", "schemas/__init__.py"])
def test_a_package_that_would_hide_ours_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(SpecError, match="would hide Tandem's own"):
        add_user_folder(tmp_path)


def test_each_half_of_a_reference_that_fails_is_named(write: Write) -> None:
    name = write("x = 7")
    cases = {
        "no_such_module_at_all:x": "there is no module 'no_such_module_at_all'",
        f"{name}:y": f"'{name}' has no 'y'.*It has: x",
        f"{write('import no_such_dependency')}:x": "no module 'no_such_dependency', which .* imports",
        f"{write('1 / 0')}:x": "raised ZeroDivisionError",
        f"{write('def (')}:x": "raised SyntaxError",
    }
    for reference, sentence in cases.items():
        with pytest.raises(SpecError, match=f"stage a: .*{sentence}"):
            load_attribute(reference, where="stage a")


def test_the_digest_changes_with_the_module_and_with_a_helper_that_it_imports(write: Write) -> None:
    helper = write("def f():\n    return 1\n")
    name = write(f"def g():\n    from {helper} import f\n    return f()\n")
    first = code_digest(f"{name}:g")
    assert code_digest(f"{name}:other") == first
    write("def f():\n    return 2\n", helper)
    second = code_digest(f"{name}:g")
    write(f"import {helper}\n", name)
    assert len({first, second, code_digest(f"{name}:g")}) == 3


def test_packages_and_relative_imports_are_followed(write: Write) -> None:
    package = f"package_of_a_user_{next(_numbers)}"
    write("", f"{package}.__init__")
    write("from . import b\nfrom .sub.c import x\n", f"{package}.a")
    write("y = 1\n", f"{package}.b")
    write("", f"{package}.sub.__init__")
    write("from ..b import y\nx = 1\n", f"{package}.sub.c")
    seen = {code_digest(f"{package}.a:z")}
    for module in ("a", "b", "sub.c"):
        write("z = 1\n" if module != "a" else "from . import b\nfrom .sub.c import x\nz = 2\n", f"{package}.{module}")
        seen.add(code_digest(f"{package}.a:z"))
    assert len(seen) == 4


def test_a_module_that_it_does_not_import_changes_nothing(write: Write) -> None:
    name, other = write("x = 1"), write("y = 1")
    before = code_digest(f"{name}:x")
    write("y = 2", other)
    assert code_digest(f"{name}:x") == before


def test_the_digest_is_that_of_the_code_that_runs(write: Write) -> None:
    name = write("x = 1")
    load_attribute(f"{name}:x", where="stage a")
    loaded = code_digest(f"{name}:x")
    write("x = 2", name)
    assert load_attribute(f"{name}:x", where="stage a") == 1
    assert code_digest(f"{name}:x") == loaded
    importlib.reload(sys.modules[name])
    assert code_digest(f"{name}:x") != loaded


def test_what_has_no_source_is_digested_by_name() -> None:
    assert code_digest("math:sqrt") != code_digest("zlib:crc32")
    assert code_digest("no_such_package_at_all.x:y") != code_digest("no_such_package_at_all.z:y")


def test_an_installed_package_is_digested_without_what_it_imports() -> None:
    assert code_digest("langgraph.graph:StateGraph") == code_digest("langgraph.graph:StateGraph")


def test_circular_imports_and_broken_helpers_are_no_obstacle(write: Write) -> None:
    one = f"circle_of_a_user_{next(_numbers)}"
    two = write(f"def f():\n    import {one}\n")
    write(f"def f():\n    import {two}\n    import {write('def (')}\n", one)
    assert code_digest(f"{one}:f")
