"""Transport to the providers, and what differs between them: facts, dialects, clients, protocols."""
