"""Shared limits in workflows: what a worker may send, and a run that pauses at its budget."""
