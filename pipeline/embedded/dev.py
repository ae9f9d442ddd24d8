"""The lock of `tandem dev`, by which other processes of the folder know that it runs."""

from pathlib import Path

from pipeline.owned_file import is_owned
from pipeline.settings import home_of

DEV_LOCK = "dev.lock"


def dev_is_up(folder: Path) -> bool:
    """True if `tandem dev` runs for the specs of a folder."""
    return is_owned(home_of(folder) / DEV_LOCK)
