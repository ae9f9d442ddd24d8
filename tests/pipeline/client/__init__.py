"""Asking Temporal."""
