"""Table stages."""
