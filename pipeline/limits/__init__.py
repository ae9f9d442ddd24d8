"""The spec's `limits:` across processes: budgets in the sink, leases of rate limits."""
