"""Provider batch jobs in workflows: jobs of a model from gathering to their answers, and partitions that wait."""
