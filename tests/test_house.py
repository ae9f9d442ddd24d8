"""The house is in order: what is tracked names no machine and no registry, the locks are whole, the layers are said."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.embedded.server import SEARCH_ATTRIBUTES

ROOT = Path(__file__).parent.parent
ROOMS = ("pipeline", "stages", "schemas")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ("requirements.lock", "requirements-dev.lock")
# Written apart, so that this file does not find itself.
_FOREIGN = re.compile(
    "|".join(
        (
            "/work" + "/",
            "/opt" + "/pypi",
            "/root" + "/",
            "/home" + r"/(?!tandem\b)\w",
            "pypi" + r"\.org",
            "pythonhosted" + r"\.org",
        )
    )
)


def tracked() -> list[Path]:
    """What git tracks, or would; skips where this is no clone."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git clone")
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


def modules(*rooms: str) -> Iterator[tuple[str, ast.Module]]:
    """Every Python module of some folders, parsed."""
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def plain(requirement: str) -> str:
    """`Some_Package[extra]>=1; marker` as `some-package`."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[._-]+", "-", name[0]).lower()


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    """A clone works anywhere: which registry is asked is pip's configuration, never ours."""
    found = [
        f"{path.relative_to(ROOT)}: {hit[0]}"
        for path in tracked()
        if (hit := _FOREIGN.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert found == []


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_pin_with_hashes_and_without_addresses(lock: str) -> None:
    """Each entry is one exact version with at least one hash."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^(-|.*@ )", text, re.M)
    entries = re.findall(r"^(\S+==[^ \\;]+)[^\n]*\n((?:    --hash=\S+ ?\\?\n)*)", text, re.M)
    assert len(entries) > 50
    assert [entry for entry, hashes in entries if "--hash=sha256:" not in hashes] == []


def test_the_dev_lock_is_the_first_one_and_more() -> None:
    """So `make demo` after `make test` changes nothing."""
    first, dev = (
        set(re.findall(r"^(\S+==[^ \\]+)", (ROOT / lock).read_text(encoding="utf-8"), re.M)) for lock in LOCKS
    )
    assert first < dev


def test_locks_hold_all_that_is_declared() -> None:
    """A dependency that was added without `make lock` would be missing on a fresh clone."""
    optional = PROJECT["project"]["optional-dependencies"]
    first = [
        *PROJECT["project"]["dependencies"],
        *optional["local"],
        *optional["openai"],
        *optional["ui"],
        *PROJECT["dependency-groups"]["build"],
    ]
    for lock, wanted in zip(LOCKS, (first, [*first, *optional["dev"]]), strict=True):
        locked = {plain(entry) for entry in re.findall(r"^(\S+)==", (ROOT / lock).read_text(encoding="utf-8"), re.M)}
        assert {plain(requirement) for requirement in wanted} - locked == set(), lock


def test_what_is_imported_is_declared() -> None:
    """No package is there only because another one, or the tests, happen to bring it."""
    extras = PROJECT["project"]["optional-dependencies"]
    # Imported where a sink has that format, for the page, where traces or lineage are requested, or a spec has MCP
    # servers, and nowhere else.
    optional = [one for name in ("delta", "iceberg", "otel", "lineage", "ui", "mcp") for one in extras[name]]
    declared = {plain(requirement) for requirement in [*PROJECT["project"]["dependencies"], *optional]}
    brought = {  # by those that it is a part of
        "botocore": "boto3", "pydantic-core": "pydantic", "click": "typer", "sqlalchemy": "pyiceberg",
        "protobuf": "temporalio", "attrs": "openlineage-python", "markupsafe": "jinja2",
        "anyio": "mcp", "mcp-types": "mcp",
    }  # fmt: skip
    owners = packages_distributions()
    undeclared = set()
    for name, tree in modules(*ROOMS):
        for node in ast.walk(tree):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                imported = [node.module or ""]
            for top in {full.partition(".")[0] for full in imported} - set(sys.stdlib_module_names) - set(ROOMS):
                of = {brought.get(plain(owner), plain(owner)) for owner in owners.get(top, [top])}
                if not of & declared:
                    undeclared.add(f"{name}: {top}")
    assert undeclared == set()


def test_extras_are_there() -> None:
    """One a provider family that models name, a table format, the embedded server, and the tools."""
    assert set(PROJECT["project"]["optional-dependencies"]) == {
        "local", "openai", "anthropic", "google", "bedrock", "ollama", "delta", "iceberg", "lineage", "otel",
        "ui", "mcp", "dev",
    }  # fmt: skip


def test_every_module_says_what_it_is() -> None:
    """A docstring in each module that holds anything."""
    silent = [name for name, tree in modules(*ROOMS, "tests") if tree.body and not ast.get_docstring(tree)]
    assert silent == []


def test_compose_starts_a_temporal_a_store_and_a_worker() -> None:
    """The worker is pointed at both, and Temporal knows our search attributes."""
    compose = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert set(services) == {
        "postgresql", "temporal-schema", "temporal", "temporal-namespace", "temporal-ui", "s3", "worker", "prometheus",
        "grafana", "collector", "jaeger",
    }  # fmt: skip
    (script,) = services["temporal-namespace"]["command"]
    assert re.findall(r"Tandem\w+", script) == list(SEARCH_ATTRIBUTES)
    password = services["postgresql"]["environment"]["POSTGRES_PASSWORD"]
    assert services["temporal"]["environment"]["POSTGRES_PWD"] == password
    assert services["temporal-schema"]["environment"]["SQL_PASSWORD"] == password
    worker = services["worker"]
    assert worker["environment"]["TEMPORAL_ADDRESS"] == "temporal:7233"
    assert worker["environment"]["AWS_ENDPOINT_URL"] == "http://s3:8333"
    assert {one for service in services.values() for one in service.get("depends_on", ())} <= set(services)
    assert (ROOT / "infra" / worker["build"]["context"] / worker["build"]["dockerfile"]).exists()
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    mounted = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert all((ROOT / "infra" / name).exists() for name in mounted if name.startswith("."))
    assert {name for name in mounted if not name.startswith(".")} == set(compose["volumes"])


def test_the_demo_credentials_agree() -> None:
    """What the worker presents is what the store was given."""
    compose = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text(encoding="utf-8"))
    store = yaml.safe_load((ROOT / "infra" / "seaweedfs.json").read_text(encoding="utf-8"))
    presented = compose["services"]["worker"]["environment"]
    assert store["identities"][0]["credentials"] == [
        {"accessKey": presented["AWS_ACCESS_KEY_ID"], "secretKey": presented["AWS_SECRET_ACCESS_KEY"]}
    ]


def test_the_image_is_locked_and_runs_as_nobody_special() -> None:
    """Dependencies with hashes, a user that is not root, and only files that the build context lets through."""
    image = (ROOT / "infra" / "Dockerfile").read_text(encoding="utf-8")
    assert "--require-hashes -r requirements.lock" in image
    assert re.search(r"^USER (?!root)\w+", image, re.M)
    assert 'ENTRYPOINT ["tandem"]' in image
    let_through = set(re.findall(r"^!(.+?)/?$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.M))
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", image, re.M)
    assert {name for line in copied for name in line.split()} <= let_through


def test_ci_runs_what_the_readme_says() -> None:
    """One set of commands for people and for machines."""
    assert "make check test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "`make check test`" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
