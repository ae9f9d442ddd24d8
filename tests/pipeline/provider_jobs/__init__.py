"""Provider jobs: packed, submitted once, collected."""
