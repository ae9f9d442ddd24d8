"""Functions for readers and operators of a dataset: scan, export, verify, rejects, garbage."""
