"""Plan of a run: its partitions, the decision and reason for each, and their batches."""
