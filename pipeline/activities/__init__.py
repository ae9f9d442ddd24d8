"""The activities, kept thin: they turn messages into calls of the other packages, and send heartbeats."""
