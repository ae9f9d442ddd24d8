"""The built-in graphs, one file each, topology drawn in its docstring."""
