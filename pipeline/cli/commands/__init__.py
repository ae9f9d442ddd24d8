"""The command line's groups: one Typer app each, names and flags only."""
