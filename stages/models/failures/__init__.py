"""Failed calls: the one table that sorts them, waits that providers ask for, and refusals that are the stage's."""
