"""The dataset's metadata."""
