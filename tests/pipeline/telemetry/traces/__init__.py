"""Traces in one process, with an exporter in memory."""
