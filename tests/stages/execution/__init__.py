"""Stages over rows."""
