"""The spec."""
