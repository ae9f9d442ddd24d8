"""Load a `Spec` from a file or a mapping; errors are sentences with file, line, field, value and the allowed values."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.errors import SpecError
from schemas.spec.document import MAX_BYTES, Document, Location, load_document, parse_document
from schemas.spec.sections import Spec, Stage

_SECRETS = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abp]-[\w-]{10,}"
    r"|AIza[\w-]{30,}|eyJ[\w-]{20,}\.[\w-]{20,}\.[\w-]+)|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|hooks\.slack\.com/services/\w|://[^\s/:@]+:[^\s/@]+@"
)
_SECRET_NAMES = re.compile(
    r"(^|_)(api_?key|(access|secret|private)_key|secret|password|passwd|pwd|token|credential|authorization|bearer)s?$"
)
# Keys whose values are text for people or a model, or names of columns or state keys: never secrets by their name.
_PROSE = frozenset(("prompt", "system", "query", "sql", "description"))
_NAMES = frozenset(("columns", "output", "inputs", "outputs", "examples"))
_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


def load_spec(path: Path) -> Spec:
    """Load the spec of a file, with its prompt files inlined. Raises SpecError with one line for each fault."""
    document = load_document(path)
    return spec_from(document, base=path.parent)


def spec_from(document: Document, *, base: Path) -> Spec:
    """Return the spec of a parsed document; `{file: …}` prompts are read relative to `base`. Raises SpecError."""
    if not isinstance(document.data, dict):
        raise SpecError(
            f"{document.name}: a spec is a mapping that starts with name:, source:, stages:, sink:.",
            hint="Write one that runs with: tandem init DIR",
        )
    whole = Document(document.name, _inline_files(document, base), document.lines)
    _check_secrets(whole)
    try:
        spec = Spec.model_validate(whole.data)
    except ValidationError as exc:
        raise SpecError("\n".join(_sentences(exc, whole))) from None
    if wrong := list(_refused_in_files(spec)):
        raise SpecError("\n".join(_placed(document, wrong)))
    return spec


def in_file(exc: SpecError, path: Path, spec: Spec) -> SpecError:
    """Return the error with file and line, if it has places and the spec is that of the file."""
    if not exc.places or not path.exists() or load_spec(path) != spec:
        return exc
    return SpecError("\n".join(_placed(load_document(path), exc.places)), hint=exc.hint)


def _placed(document: Document, places: Iterable[tuple[Location, str]]) -> list[str]:
    return [f"{_where(document, location)}: {sentence}" for location, sentence in places]


def _refused_in_files(spec: Spec) -> Iterator[tuple[Location, str]]:
    """Yield faults that are refused in files, but allowed in stored specs of runs of earlier versions."""
    if spec.sink.table is not None and spec.sink.format != "iceberg":
        yield (
            ("sink", "table"),
            (
                f"sink.table = {spec.sink.table!r} names an Iceberg table, but format is {spec.sink.format}. "
                "Leave it out, or set format: iceberg."
            ),
        )
    names = [check.name for check in spec.checks]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (
                ("checks", index, "name"),
                f"checks[{index}].name = {name!r}: another check has this name; rename one.",
            )


def spec_from_mapping(data: Mapping[str, Any], *, base: Path, name: str = "spec") -> Spec:
    """Return the spec of a Python mapping. Raises SpecError."""
    return spec_from(Document(name, dict(data), {}), base=base)


def _where(document: Document, location: Location) -> str:
    return f"{document.name}:{document.line(location)}" if document.lines else document.name


def _dotted(location: Location) -> str:
    out = ""
    for part in location:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


def _inline_files(document: Document, base: Path) -> dict[str, Any]:
    data = dict(document.data)
    if not isinstance(data.get("stages"), list):
        return data
    stages = []
    for index, declared in enumerate(data["stages"]):
        stage = declared
        if isinstance(stage, dict):
            stage = dict(stage)
            for field in ("prompt", "system"):
                if isinstance(stage.get(field), dict):
                    stage[field] = _read_text(document, ("stages", index, field), stage[field], base)
            if isinstance(stage.get("examples"), dict):
                stage["examples"] = _read_examples(document, ("stages", index, "examples"), stage["examples"], base)
        stages.append(stage)
    data["stages"] = stages
    return data


def _read_text(document: Document, location: Location, value: dict[str, Any], base: Path) -> str:
    where = f"{_where(document, location)}: {_dotted(location)}"
    if set(value) != {"file"} or not isinstance(value["file"], str):
        raise SpecError(f"{where}: write the text, or {{file: path}} relative to the spec.")
    path = base / value["file"]
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as exc:
        raise SpecError(f"{where}: {value['file']!r} cannot be read: {exc.strerror} ({path}).") from None
    except UnicodeDecodeError as exc:
        raise SpecError(f"{where}: {value['file']!r} is not UTF-8 text (byte {exc.start}).") from None
    if len(data) > MAX_BYTES:
        raise SpecError(f"{where}: {value['file']!r} has more than {MAX_BYTES:,} bytes.")
    return text.replace("\r\n", "\n")


def _read_examples(document: Document, location: Location, value: dict[str, Any], base: Path) -> list[Any]:
    """Read a file of examples: NDJSON, or a list in JSON or YAML."""
    text, where = _read_text(document, location, value, base), f"{_where(document, location)}: {_dotted(location)}"
    if not value["file"].endswith((".ndjson", ".jsonl")):
        found = parse_document(text, name=f"{where}: {value['file']}").data
        if not isinstance(found, list):
            raise SpecError(f"{where}: {value['file']!r} is no list of examples: [{{input: {{…}}, output: {{…}}}}, …].")
        return found
    examples = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            examples += [json.loads(line)] if line.strip() else []
        except ValueError:
            raise SpecError(f"{where}: line {number} of {value['file']!r} is not JSON.") from None
    return examples


def _check_secrets(document: Document) -> None:
    for location, value in _leaves(document.data, ()):
        if isinstance(value, str) and _secret(location, value):
            raise SpecError(
                f"{_where(document, location)}: {_dotted(location)} looks like a secret; a spec never holds one.",
                hint="Put it in the worker's environment and write ${NAME}.",
            )


def _secret(location: Location, value: str) -> bool:
    name = next((part for part in reversed(location) if isinstance(part, str)), "")
    if match := _SECRETS.search(_REFERENCE.sub("", value)):
        return name not in _PROSE or not match[0].startswith("://")
    if not value or _REFERENCE.search(value) or name in _PROSE or not _NAMES.isdisjoint(location):
        return False
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|-", "_", name).lower()
    return bool(_SECRET_NAMES.search(plain)) and not plain.startswith("max_")


def _leaves(value: Any, location: Location) -> Iterator[tuple[Location, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*location, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, (*location, index))
    else:
        yield location, value


# Errors ------------------------------------------------------------------------------------------------------------


def _sentences(exc: ValidationError, document: Document) -> list[str]:
    seen: dict[str, int] = {}
    for error in exc.errors(include_url=False):
        location = _real_location(error["loc"], document.data)
        if error["type"] in ("missing", "extra_forbidden"):
            location = (*_real_location(error["loc"][:-1], document.data), error["loc"][-1])
        seen.setdefault(f"{_where(document, location)}: {_sentence(error, location)}", document.line(location))
    return sorted(seen, key=lambda sentence: seen[sentence])


def _real_location(location: Location, data: Any) -> Location:
    """Return a location as in the file: pydantic adds union members and our own rewrites to locations."""
    out: list[str | int] = []
    for part in location:
        if isinstance(data, Mapping):
            if part not in data:
                continue
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        out.append(part)
    return tuple(out)


def option_sentences(exc: ValidationError, model: type[BaseModel], place: Location) -> list[tuple[Location, str]]:
    """Return the errors of a stage's options, validated by the model of its graph, each with its place."""
    places: dict[str, Location] = {}
    for error in exc.errors(include_url=False):
        location = (*place, *error["loc"])
        places.setdefault(_sentence(error, location, _keys_at(error["loc"][:-1], model)), location)
    return [(location, sentence) for sentence, location in places.items()]


def _sentence(error: ErrorDetails, location: Location, known: list[str] | None = None) -> str:
    field = _dotted(location) or "spec"
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return f"{field} is missing."
    if kind == "extra_forbidden":
        known = _keys_at(location[:-1]) if known is None else known
        close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(known)}." if known else ""
        return f"{field} is not a key of the spec; {hint}".rstrip("; ")
    if kind == "value_error":
        message = str(context.get("error", error["msg"]))
        shown = f" = {_short(value)}" if isinstance(value, str | int | float) else ""
        return f"{field}{shown}: {message}."
    if kind == "literal_error":
        expected = str(context.get("expected", ""))
        options = re.findall(r"'([^']*)'", expected)
        close = difflib.get_close_matches(str(value), options, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"{field} = {_short(value)}: allowed: {', '.join(options) or expected}.{hint}"
    message = _EXPECTED.get(kind) or error["msg"][0].lower() + error["msg"][1:]
    return f"{field} = {_short(value)}: {message}."


_EXPECTED = {
    "string_type": "must be text; put it in quotes",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number, without quotes",
    "float_type": "must be a number, without quotes",
    "list_type": "must be a list: [first, second]",
    "dict_type": "must be a mapping: {key: value}",
    "model_type": "must be a mapping: {key: value}",
    "tuple_type": "must be a list: [first, second]",
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


# Fields that have another name in a spec.
_WRITTEN = {"output_class": None, "options": "with"}


def _keys_at(location: Location, model: Any = Spec) -> list[str]:
    """Return the allowed keys at a location, found by walking the models."""
    for part in location:
        if isinstance(part, int):
            continue
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
        # a key of a mapping (a column, a role): its value's model is already `model`
    if isinstance(model, type) and issubclass(model, BaseModel):
        names = model.model_fields if model is not Stage else (_WRITTEN.get(name, name) for name in model.model_fields)
        return [name for name in names if name is not None]
    return []


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
