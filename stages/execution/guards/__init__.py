"""What a row may do to its process: block the loop, take too long or too much memory, end it."""
