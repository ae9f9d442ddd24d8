"""Who wants no metrics imports nothing for them."""

import subprocess
import sys


def test_the_library_of_prometheus_is_imported_by_the_endpoint_alone() -> None:
    code = (
        "import sys, pipeline.cli.flags.app, pipeline.cli.commands.work.run, pipeline.processes.child.main\n"
        "print('prometheus_client' in sys.modules)\n"
        "import pipeline.telemetry.metrics.endpoint\n"
        "print('prometheus_client' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
