"""Lineage in one process."""
