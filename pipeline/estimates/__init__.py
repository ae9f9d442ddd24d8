"""What a run will cost, before it costs anything."""
