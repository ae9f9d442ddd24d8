"""Running one graph stage over rows: a batch at once, equal rows once, with stored steps and interrupts."""
