"""The journal on a store: segments, the compacted form, what rows may use of it."""
