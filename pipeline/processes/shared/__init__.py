"""What the processes of a command share: limits, rates and equal rows."""
