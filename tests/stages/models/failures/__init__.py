"""Failed calls."""
