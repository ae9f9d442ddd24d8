"""The row that a model works for: its budget, clock and calls, and parking it until a job has answered."""
