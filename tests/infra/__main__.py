"""`python -m tests.infra`: check the files of `infra/`; a part of `make check`."""

import os
import sys

from tests.infra.checks import ToolAbsent, complaints


def main() -> int:
    try:
        found = list(complaints())
    except ToolAbsent as exc:
        print(f"infra/ is not checked: {exc}", file=sys.stderr)
        return int("CI" in os.environ)
    print("\n".join(found) or "infra/: no complaints", file=sys.stderr if found else sys.stdout)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
