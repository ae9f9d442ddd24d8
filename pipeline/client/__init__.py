"""The client side of Temporal: connect, preflight, start, follow and find runs, manage schedules."""
