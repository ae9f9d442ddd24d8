"""Forgetting rows."""
