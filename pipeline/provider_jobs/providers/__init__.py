"""Jobs at each provider, over one connection."""
