"""From staged batches to a generation."""
