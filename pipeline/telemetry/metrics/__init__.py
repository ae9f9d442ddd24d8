"""Figures about a command and all its processes, in Prometheus' form."""
