"""Limits, money."""
