"""Failed calls: the table that classifies them, waits that providers request, and refusals of a whole stage."""
