"""Workflows in the real sandbox."""
