"""The table stages, one file each: Polars over the rows of a batch, or behind a barrier over those of a partition."""
