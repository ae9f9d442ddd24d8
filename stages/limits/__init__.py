"""Limits of calls to a provider, and of spending: queues, pacing, breakers, budgets, prices. No I/O."""
