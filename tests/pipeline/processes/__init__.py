"""Processes of a command."""
