"""Benchmarks: numbers are printed here and quoted in README; tests never assert time."""
