"""Processes for what may end them: imports of user code, trials, rows that are suspected."""
