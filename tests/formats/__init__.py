"""Formats are promises: sinks that an earlier version wrote, and what must hold of them under this one."""
