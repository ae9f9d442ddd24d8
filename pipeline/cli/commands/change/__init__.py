"""Commands that change a run, a schedule or what waits for a person."""
