"""Who wants no metrics, traces or lineage imports nothing for them."""

import subprocess
import sys

# LangSmith imports OpenTelemetry's SDK where it is installed; what we import of it are these.
_HEAVY = {
    "prometheus_client", "opentelemetry.exporter", "temporalio.contrib.opentelemetry",
    "pipeline.telemetry.traces.tracer", "openlineage",
}  # fmt: skip


def test_libraries_for_those_who_want_them_are_imported_where_they_are_used_alone() -> None:
    code = (
        "import sys, pipeline.cli.flags.app, pipeline.cli.commands.work.run, pipeline.processes.child.main\n"
        f"print(*sorted({_HEAVY} & sys.modules.keys()))\n"
        "from pipeline.telemetry.traces import switch\n"
        "assert switch.tracer() is None\n"
        "import pipeline.telemetry.metrics.endpoint\n"
        "print('prometheus_client' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["", "True", ""]
