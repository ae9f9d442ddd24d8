"""How one graph stage runs over rows: a batch at once, equal rows once, steps and interrupts kept."""
