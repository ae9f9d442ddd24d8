"""Figures about a command and all its processes, in Prometheus' form, and its logs as records."""
