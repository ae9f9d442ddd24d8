"""Statistics of a run: rows, rejects, costs by stage and model, counted from what its partitions wrote."""
