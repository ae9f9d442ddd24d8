"""Runnable specs, one for each built-in graph, and the test that runs them."""
