"""Several commands of `tandem`, each in a process forked from one that has imported what they need, which takes
seconds: `python several.py`.

Command lines come as JSON on stdin, `[["plan", "--json"], …]`; exit codes and outputs go to stdout.
"""

import json
import os
import sys
import tempfile

from pipeline.cli.__main__ import entry


def called(command: list[str]) -> tuple[int, str]:
    """The exit code and stdout of a command."""
    with tempfile.TemporaryFile() as out:
        pid = os.fork()
        if pid == 0:
            sys.argv = ["tandem", *command]
            os.dup2(out.fileno(), 1)
            entry()
            os._exit(70)  # a command ends its process itself
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        return os.waitstatus_to_exitcode(status), out.read().decode()


if __name__ == "__main__":
    print(json.dumps([called(command) for command in json.load(sys.stdin)]))
