"""How much may be asked of a provider and spent: queues, pacing, breakers, budgets, prices. No I/O."""
