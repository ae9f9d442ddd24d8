"""The embedded Temporal server for one machine: Temporal's dev server, alive as long as a process uses it."""
