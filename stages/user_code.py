"""User code: imported by `module:attribute`, and digested with the local modules that it imports."""

import ast
import importlib
import importlib.util
import sys
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from schemas.digests import digest
from schemas.errors import SpecError
from stages.process_state import restoring_process_state
from stages.text.exceptions import text_of

_OURS = ("pipeline", "stages", "schemas")


def add_user_folder(folder: Path) -> None:
    """Append the spec's folder to `sys.path`. Raises SpecError where a package there would hide one of ours."""
    for name in _OURS:
        if (folder / name / "__init__.py").exists() or (folder / f"{name}.py").exists():
            ours = Path(__file__).resolve().parent.parent
            if folder.resolve() != ours:
                raise SpecError(
                    f"{folder / name}: a package called {name!r} beside a spec would hide Tandem's own.",
                    hint="Rename yours.",
                )
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()


def load_attribute(reference: str, *, where: str) -> Any:
    """Return the attribute that `module:attribute` names. Raises SpecError that names the failing half and the
    cause."""
    module_name, _, attribute = reference.partition(":")
    try:
        with restoring_process_state():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        missing = exc.name or module_name
        known = missing == module_name or module_name.startswith(missing + ".")
        raise SpecError(
            f"{where}: cannot import {module_name!r}: there is no module {missing!r}"
            + (" in the spec's folder or installed." if known else f", which {module_name} imports."),
            hint="Check the name, or install the package into the environment of tandem.",
        ) from exc
    except BaseException as exc:
        raise user_code_error(exc, f"{where}: importing {module_name!r}") from exc
    try:
        return getattr(module, attribute)
    except AttributeError:
        names = [name for name in vars(module) if not name.startswith("_")]
        raise SpecError(
            f"{where}: {module_name!r} has no {attribute!r}.", hint=f"It has: {', '.join(names[:12])}"
        ) from None


def user_code_error(exc: BaseException, action: str, *, hint: str = "") -> BaseException:
    """Convert an exception of a user's code, before any row, to SpecError; Ctrl-C stays KeyboardInterrupt."""
    if isinstance(exc, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        return exc
    return SpecError(f"{action} raised {type(exc).__name__}: {text_of(exc)}", hint=hint)


def code_digest(reference: str) -> str:
    """Return the digest of the module's source and, recursively, of the modules beside it that it imports."""
    module_name = reference.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module_name)
    except (ModuleNotFoundError, ValueError):  # the parent package is missing
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return digest("opaque", module_name)
    root = Path(spec.origin).parents[module_name.count(".") + (1 if spec.submodule_search_locations else 0)]
    top = module_name.partition(".")[0]
    installed = not {"site-packages", "dist-packages"}.isdisjoint(root.parts)
    seen: dict[str, str] = {}
    _collect(module_name, _CodeRoot(root, top, installed), seen)
    return digest(*(f"{name}\0{content}" for name, content in sorted(seen.items())))


@dataclass(frozen=True)
class _CodeRoot:
    """The folder of a user's modules. Of an installed package only itself is digested; Tandem's own code never is."""

    root: Path
    top: str
    installed: bool

    def has(self, module_name: str) -> bool:
        top = module_name.partition(".")[0]
        return top == self.top or not (self.installed or top in _OURS)


def _collect(module_name: str, place: _CodeRoot, seen: dict[str, str]) -> None:
    path = _file_of(module_name, place.root)
    if path is None or module_name in seen or not place.has(module_name):
        return
    source = _source(module_name, path)
    seen[module_name] = digest(source)
    for name in _imports(source, module_name, path.name == "__init__.py"):
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            _collect(".".join(parts[:end]), place, seen)


# Module → (its spec when it was first looked at, its source then). Process-wide, as `sys.modules` is.
_loaded: dict[str, tuple[Any, bytes]] = {}


def _source(module_name: str, path: Path) -> bytes:
    """Return the source that runs: of an imported module the source at its import, even if the file has changed since.
    Otherwise a long-lived worker would answer with old code under the digest of the new."""
    module = sys.modules.get(module_name)
    spec = getattr(module, "__spec__", None)
    if spec is None or spec.origin is None or Path(spec.origin) != path:
        return path.read_bytes()
    known = _loaded.get(module_name)
    if known is None or known[0] is not spec:
        known = _loaded[module_name] = (spec, path.read_bytes())
    return known[1]


def _file_of(module_name: str, root: Path) -> Path | None:
    base = root.joinpath(*module_name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@lru_cache(maxsize=512)
def _imports(source: bytes, module_name: str, is_package: bool) -> tuple[str, ...]:
    names: list[str] = []
    package = module_name if is_package else module_name.rpartition(".")[0]
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a digest needs no valid syntax
        return ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            names.append(base)
            names.extend(f"{base}.{alias.name}" for alias in node.names)
    return tuple(name for name in names if name)
