"""The nouns: names that cannot collide or escape."""
