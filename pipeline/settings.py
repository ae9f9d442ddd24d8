"""The settings of a process from its environment (`TANDEM_…`), read once, and `${NAME}` in specs.

Libraries read their own variables: Temporal's client `TEMPORAL_…`, boto3 `AWS_…` (`pipeline.stores.s3_environment`),
providers' SDKs their keys (`stages.models.credentials`).
"""

import os
import re
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.errors import SpecError, UsageError
from schemas.spec.durations import Duration
from schemas.spec.sections import Spec

TASK_QUEUE = "tandem"
PACKAGE = "tandem-pipeline"
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# Keys that are not expanded: a prompt's text may contain `${x}` itself; hooks are expanded when they are called, as
# only the worker that calls them needs their secrets.
_KEPT = frozenset(("prompt", "system", "query", "sql", "description", "output", "notify"))


@lru_cache(maxsize=1)
def version() -> str:
    """Return Tandem's version; its workers name it as their build, for else Temporal's SDK digests the code of every
    imported module: 0.8 s in each process."""
    return metadata.version(PACKAGE)


class Settings(BaseSettings):
    """The variables of Tandem itself. Empty variables count as unset."""

    model_config = SettingsConfigDict(env_prefix="TANDEM_", env_ignore_empty=True, frozen=True, populate_by_name=True)

    home: Path | None = None
    spool: Path | None = None
    task_queue: str = TASK_QUEUE
    metrics: str | None = None
    ui_token: SecretStr | None = None
    ui_token_file: Path | None = None
    job_poll: Duration = timedelta(seconds=30)  # before a provider job is looked at again; it grows to 20 times that
    job_margin: Duration = timedelta(seconds=60)  # for clocks of machines, and lists of a provider that lag behind
    temporal_address: str | None = Field(default=None, validation_alias="TEMPORAL_ADDRESS")
    temporal_profile: str | None = Field(default=None, validation_alias="TEMPORAL_PROFILE")
    temporal_config_file: Path | None = Field(default=None, validation_alias="TEMPORAL_CONFIG_FILE")

    def home_of(self, base: Path) -> Path:
        """Return the folder of the embedded server: `TANDEM_HOME`, else `.tandem/` beside the spec."""
        return self.home.expanduser().absolute() if self.home is not None else base.absolute() / ".tandem"

    @property
    def spool_folder(self) -> Path:
        """The folder of unflushed journal records: `TANDEM_SPOOL`, else one folder per user under /tmp."""
        return self.spool or Path(tempfile.gettempdir()) / f"tandem-spool-{os.getuid()}"

    @property
    def spend_folder(self) -> Path:
        """The folder in which workers count their spending of a budget, beside the spools."""
        return (
            self.spool_folder / "purses"
        )  # the name in earlier versions: the spending of their dead processes is read here

    def token_of_page(self) -> str | None:
        """Return the token of the page: `TANDEM_UI_TOKEN`, or what the file `TANDEM_UI_TOKEN_FILE` holds; None for a
        random one. Raises UsageError."""
        if self.ui_token is not None:
            return self.ui_token.get_secret_value().strip()
        if self.ui_token_file is None:
            return None
        try:
            return self.ui_token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
            raise UsageError(
                f"TANDEM_UI_TOKEN_FILE: {self.ui_token_file} cannot be read: {reason}.",
                hint="Name a file that holds the token alone.",
            ) from None

    @property
    def temporal_configured(self) -> bool:
        """True if the user has configured a Temporal, by variables or by a profile."""
        if self.temporal_address or self.temporal_profile:
            return True
        return self.temporal_config_file is not None and self.temporal_config_file.exists()


@lru_cache(maxsize=1)
def current() -> Settings:
    """Return the settings of this process, read at the first use."""
    return Settings()


def read_again() -> Settings:
    """Read the settings again, for calls in a user's process, whose environment may have changed between two calls."""
    current.cache_clear()
    return current()


def home_of(base: Path) -> Path:
    return current().home_of(base)


def temporal_configured() -> bool:
    return current().temporal_configured


def expanded(spec: Spec) -> Spec:
    """Return the spec with `${NAME}` replaced from the environment. Raises SpecError that names an unset variable."""
    data = spec.model_dump(mode="json")
    if "${" not in str(data):
        return spec
    return Spec.model_validate(_expand(data, "spec", os.environ))


def expanded_text(text: str, place: str) -> str:
    """Return one value with `${NAME}` replaced from the environment. Raises SpecError."""
    return str(_expand(text, place, os.environ))


def _expand(value: Any, place: str, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: item if key in _KEPT else _expand(item, f"{place}.{key}", environment) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_expand(item, f"{place}[{index}]", environment) for index, item in enumerate(value)]
    if isinstance(value, str) and "${" in value:
        for name in _REFERENCE.findall(value):
            if name not in environment:
                raise SpecError(f"{place}: the environment variable {name} is not set.", hint=f"export {name}=…")
        return _REFERENCE.sub(lambda match: environment[match[1]], value)
    return value
