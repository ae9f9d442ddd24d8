"""A worker process from inside: its activities, what it tells its supervisor, and how it ends."""
