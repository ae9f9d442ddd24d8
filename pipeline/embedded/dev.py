"""`tandem dev`, as other processes of the folder see it: it holds a lock for as long as it works."""

from pathlib import Path

from pipeline.owned_file import is_owned
from pipeline.settings import home_of

DEV_LOCK = "dev.lock"


def dev_is_up(folder: Path) -> bool:
    """Does `tandem dev` work for the specs of a folder?"""
    return is_owned(home_of(folder) / DEV_LOCK)
