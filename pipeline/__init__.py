"""Durability and I/O: workflows, activities, sources, sinks, stores, the worker and the command line."""
