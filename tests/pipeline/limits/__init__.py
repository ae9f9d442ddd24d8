"""Limits and budgets across processes."""
