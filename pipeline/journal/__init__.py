"""The journal on a store: segments, the compacted form, the join with rows."""
