"""Input: list the source, split it into partitions once, read a batch's rows and nothing else."""
