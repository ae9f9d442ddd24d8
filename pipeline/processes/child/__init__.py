"""A worker process from inside: its activities, its reports to the supervisor, and its end."""
