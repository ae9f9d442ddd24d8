"""Commands that only look: at runs, partitions, outputs, rejects."""
