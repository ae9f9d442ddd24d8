"""What a run will do: which partitions, whether and why, and in which batches."""
