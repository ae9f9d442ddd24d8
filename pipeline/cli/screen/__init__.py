"""Output for people: the console, the live view, results and the report of a run."""
