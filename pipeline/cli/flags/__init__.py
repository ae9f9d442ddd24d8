"""Names and flags of every command: Typer only, one file for each group."""
