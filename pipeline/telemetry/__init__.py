"""A command and all its processes as seen from outside: metrics, traces, logs, lineage."""
