"""The processes of a command: a supervisor that runs no user code, and worker processes that do."""
