"""Equal rows once: within a process, between the processes of a command, and between commands."""
