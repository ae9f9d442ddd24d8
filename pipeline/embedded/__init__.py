"""The Temporal server of a laptop: the real dev server, alive exactly as long as somebody uses it."""
